//! `infall status`: one line.

use crate::client::Path;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::render;
use gateway::api::StoreStatus;
use serde::Serialize;
use vmctl::api::InstanceList;

#[derive(Serialize)]
struct Status {
    healthy: bool,
    #[serde(flatten)]
    store: StoreStatus,
    /// Absent where there is no hypervisor.
    #[serde(skip_serializing_if = "Option::is_none")]
    vms: Option<usize>,
}

/// Prints it. A store that refuses writes is a failure.
pub(crate) async fn run(context: &Context) -> Outcome {
    let client = context.client()?;
    let store: StoreStatus = client.get(&Path::new(["store"])).await?;
    let vms = match client.get::<InstanceList>(&Path::new(["vms"])).await {
        Ok(list) => Some(list.instances.len()),
        // A node without libvirt stores and serves all the same.
        Err(failure) if matches!(failure.exit(), Exit::Unavailable | Exit::Invalid) => None,
        Err(failure) => return Err(failure),
    };
    let status = Status {
        healthy: store.stats.refusing.is_none(),
        store,
        vms,
    };
    context.show(&status, || line(&status));
    match &status.store.stats.refusing {
        None => Ok(()),
        Some(why) => Err(
            Failure::new(Exit::Unavailable, "store", "the store refuses writes")
                .because(why)
                .hint("Look at the disk, then restart infall serve"),
        ),
    }
}

fn line(status: &Status) -> String {
    let stats = &status.store.stats;
    let mut parts = vec![
        if status.healthy {
            "healthy"
        } else {
            "refusing writes"
        }
        .to_owned(),
    ];
    parts.push("1 node".into());
    parts.push(match status.vms {
        Some(count) => render::count(count as u64, "VM"),
        None => "no hypervisor (infall doctor)".into(),
    });
    parts.push(render::count(stats.objects, "object"));
    parts.push(format!(
        "{} stored for {} shown",
        render::bytes(stats.physical_bytes),
        render::bytes(status.store.shown_bytes)
    ));
    let next = match (stats.images, stats.volumes) {
        (0, 0) if stats.objects == 0 => "eval \"$(infall env)\"",
        (0, 0) => "infall image add --help",
        _ => "infall vm run --help",
    };
    parts.push(format!("next: {next}"));
    format!("{}\n", parts.join(" · "))
}
