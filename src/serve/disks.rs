//! Disks of instances: one NBD socket each, that only its QEMU and we can use.
//!
//! 1. An instance's socket is at the same path over restarts of the server, so that QEMU, which
//!    reconnects by path, finds its disks again.
//! 2. On a socket only the exports of its instance exist.

use crate::exit::{Exit, Failure, Outcome};
use axum::extract::{Path as UrlPath, State};
use axum::routing::get;
use axum::{Json, Router};
use blockstore::{Error, Kind, Result, Store, Subject};
use fuse::nbd::{self, Counters, Exports, Listener};
use gateway::api::Problem;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// `sockaddr_un` holds so many bytes of a path (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// The group that QEMU runs in under libvirt, on Debian and its kin.
const QEMU_GROUP: &str = "kvm";

/// What was asked of an instance's disks since the server started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct DiskList {
    /// By export.
    pub(crate) disks: Vec<Counters>,
}

/// The sockets that are open.
pub(crate) struct Disks {
    store: Store,
    directory: PathBuf,
    group: Option<u32>,
    open: Mutex<HashMap<String, Open>>,
}

struct Open {
    exports: Vec<String>,
    server: Arc<nbd::Server>,
}

impl Disks {
    /// Sockets go to `directory`, which is made.
    pub(crate) fn new(store: Store, directory: PathBuf) -> Outcome<Self> {
        let failed = |error: std::io::Error| {
            Failure::io(
                format_args!("make the directory {}", directory.display()),
                &error,
            )
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&directory)
            .map_err(failed)?;
        // It may be from an earlier day with another umask.
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o711))
            .map_err(failed)?;
        // Only root may give a file to a group it is not in; without root QEMU is the same user.
        let group = if rustix::process::geteuid().is_root() {
            qemu_group()
        } else {
            None
        };
        Ok(Self {
            store,
            directory,
            group,
            open: Mutex::default(),
        })
    }

    /// Counters of an instance's exports.
    fn counters(&self, instance: &str) -> Vec<Counters> {
        let server = self
            .locked()
            .get(instance)
            .map(|open| Arc::clone(&open.server));
        server.map(|server| server.counters()).unwrap_or_default()
    }

    /// Closes all sockets.
    pub(crate) fn stop(&self) {
        let all = std::mem::take(&mut *self.locked());
        // Each may wait for its requests; together they wait once.
        std::thread::scope(|scope| {
            for open in all.values() {
                scope.spawn(|| open.server.stop());
            }
        });
    }

    fn path(&self, instance: &str) -> Result<PathBuf> {
        let path = self.directory.join(format!("{instance}.sock"));
        if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            let context = format!(
                "the socket {} has a path of {} bytes, {SOCKET_PATH_BYTES_MAX} is the most; choose a shorter --data DIR",
                path.display(),
                path.as_os_str().len()
            );
            return Err(Error::new(Kind::Invalid, Subject::Record, context));
        }
        Ok(path)
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl vmctl::Sockets for Disks {
    fn open(&self, instance: &str, exports: &[String]) -> Result<PathBuf> {
        let path = self.path(instance)?;
        // One operation at a time per instance, as vmctl promises: nobody opens it between the two.
        if self
            .locked()
            .get(instance)
            .is_some_and(|open| open.exports == exports)
        {
            return Ok(path);
        }
        self.close(instance);
        let (mode, shown) = (0o660, Exports::Only(exports.to_vec()));
        let server = Listener::unix(&path, mode, self.group, shown)
            .and_then(|listener| nbd::serve(self.store.clone(), listener))
            .map_err(|error| {
                let context = format!("the disks of instance {instance:?} are not served");
                Error::new(Kind::Unavailable, Subject::Record, context).because(error)
            })?;
        let open = Open {
            exports: exports.to_vec(),
            server: Arc::new(server),
        };
        self.locked().insert(instance.to_owned(), open);
        Ok(path)
    }

    fn close(&self, instance: &str) {
        let open = self.locked().remove(instance);
        if let Some(open) = open {
            open.server.stop();
        }
    }
}

/// `GET /vms/{name}/disks`.
pub(crate) fn router(disks: Arc<Disks>) -> Router {
    Router::new()
        .route("/vms/{name}/disks", get(list))
        .with_state(disks)
}

async fn list(
    State(disks): State<Arc<Disks>>,
    UrlPath(name): UrlPath<String>,
) -> std::result::Result<Json<DiskList>, Problem> {
    Ok(Json(DiskList {
        disks: disks.counters(&name),
    }))
}

fn qemu_group() -> Option<u32> {
    let groups = std::fs::read_to_string(Path::new("/etc/group")).ok()?;
    group_id(&groups, QEMU_GROUP)
}

/// Lines are `name:password:gid:members` (group(5)).
fn group_id(groups: &str, wanted: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(wanted))
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    })
}

/// The socket of the whole store must have a path that fits, too.
pub(crate) fn check_path(path: &Path) -> Outcome {
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "the socket {} has a path of {} bytes, {SOCKET_PATH_BYTES_MAX} is the most",
        path.display(),
        path.as_os_str().len()
    );
    Err(Failure::new(Exit::Usage, "config", message).hint("Choose a shorter --data DIR"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\nkvm2:x:9:\nkvm:x:104:libvirt-qemu\nbroken\n";
        assert_eq!(group_id(groups, "kvm"), Some(104));
        assert_eq!(group_id(groups, "brok"), None);
        assert_eq!(group_id("", "kvm"), None);
    }

    #[test]
    fn a_socket_path_that_the_kernel_would_cut_is_refused() {
        assert!(check_path(Path::new(&format!("/{}", "a".repeat(106)))).is_ok());
        let failure = check_path(Path::new(&format!("/{}", "a".repeat(107)))).unwrap_err();
        assert!(failure.to_string().contains("108 bytes"), "{failure}");
    }
}
