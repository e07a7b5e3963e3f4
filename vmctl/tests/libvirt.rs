//! Instances on a real libvirtd: made, looked at, stopped, started, removed, and what happens when
//! something on the way is missing.

#![allow(clippy::unwrap_used)]

mod harness;

use axum::body::Body;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use blockstore::object::{ObjectMeta, Precondition};
use blockstore::volume::Origin;
use blockstore::{Kind, Subject};
use harness::{Site, eventually, guest, libvirt, who};
use http_body_util::BodyExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tower::ServiceExt;
use vmctl::domain::Accelerator;
use vmctl::hypervisor::{Hypervisor, State};
use vmctl::{InstanceSpec, Machines, Network};

const BOOT_LIMIT: Duration = Duration::from_secs(90);
const NOBODY: &str = "qemu:///system?socket=/nowhere/libvirt-sock";

fn spec(site: &Site, name: &str) -> InstanceSpec {
    let (kernel, initrd) = guest(site);
    InstanceSpec {
        name: name.into(),
        vcpus: 1,
        memory_mib: 128,
        kernel: Some(kernel),
        initrd: Some(initrd),
        cmdline: Some("console=ttyS0 quiet panic=-1".into()),
        network: Network::None,
        ..InstanceSpec::default()
    }
}

fn raw(site: &Site, name: &str, length: u64) -> std::path::PathBuf {
    let path = site.file(name, b"");
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(length)
        .unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    path
}

fn says(machines: &Machines, name: &str, what: &str) -> bool {
    machines
        .console(name, usize::MAX, None)
        .unwrap()
        .lines
        .iter()
        .any(|line| line.contains(what))
}

/// The last record the guest says it has written.
fn tick(machines: &Machines, name: &str) -> u64 {
    let lines = machines.console(name, usize::MAX, None).unwrap().lines;
    lines
        .iter()
        .rev()
        .find_map(|line| line.strip_prefix("TICK ")?.parse().ok())
        .unwrap_or(0)
}

/// Errors in the words of an API that is no other's.
struct Told(Kind, String);

impl vmctl::api::Failure for Told {
    fn of(error: blockstore::Error) -> Self {
        Self(error.kind(), error.chain())
    }
}

impl From<JsonRejection> for Told {
    fn from(rejection: JsonRejection) -> Self {
        Self(Kind::Invalid, rejection.body_text())
    }
}

impl From<QueryRejection> for Told {
    fn from(rejection: QueryRejection) -> Self {
        Self(Kind::Invalid, rejection.body_text())
    }
}

impl IntoResponse for Told {
    fn into_response(self) -> Response {
        let body = serde_json::json!({"kind": format!("{:?}", self.0), "message": self.1});
        (StatusCode::IM_A_TEAPOT, axum::Json(body)).into_response()
    }
}

#[test]
fn a_guest_from_a_file_starts_stops_and_goes() {
    let mut site = Site::new();
    let disk = raw(&site, "disk.raw", 8 << 20);
    let owner = std::fs::metadata(&disk).unwrap().uid();
    let machines = site.machines(libvirt());
    let made = machines
        .run(
            &who(),
            InstanceSpec {
                boot_file: Some(disk.clone()),
                ..spec(&site, "file1")
            },
        )
        .unwrap();
    assert_eq!((made.state, made.incomplete), (State::Running, false));
    eventually("the guest", BOOT_LIMIT, || {
        says(&machines, "file1", "GUEST-UP")
    });
    assert!(says(&machines, "file1", "DISK vda ro=0 sectors=16384"));
    let console = machines.console("file1", 1, None).unwrap();
    assert_eq!(console.lines.len(), 1);
    let terminal = std::fs::metadata(console.terminal.unwrap()).unwrap();
    assert!(terminal.file_type().is_char_device());
    assert_eq!(
        std::fs::metadata(&disk).unwrap().uid(),
        owner,
        "libvirt leaves the file's owner alone"
    );

    // The guest outlives our handle; a new one sees what libvirt says.
    drop(machines);
    site.reopen();
    let machines = site.machines(libvirt());
    let listed = machines.list().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].name.as_str(), listed[0].state),
        ("file1", State::Running)
    );
    assert_eq!(listed[0].uuid, made.uuid);
    let began = Instant::now();
    assert_eq!(
        machines.start(&who(), "file1").unwrap().state,
        State::Running,
        "nothing to do"
    );
    assert!(began.elapsed() < Duration::from_secs(2));

    let kept = machines
        .remove(&who(), "file1", false)
        .expect_err("it runs and its disk stays");
    assert_eq!(kept.kind(), Kind::Conflict);
    let stopped = machines
        .stop(&who(), "file1", Duration::from_secs(30), false)
        .unwrap();
    assert_eq!(stopped.state, State::ShutOff);
    assert!(
        says(&machines, "file1", "BUTTON"),
        "it was the guest that powered off"
    );
    assert_eq!(machines.get("file1").unwrap().state, State::ShutOff);
    assert_eq!(machines.console("file1", 1, None).unwrap().terminal, None);
    machines
        .stop(&who(), "file1", Duration::ZERO, true)
        .expect("nothing to do");

    machines.start(&who(), "file1").unwrap();
    let began = Instant::now();
    machines
        .stop(&who(), "file1", Duration::ZERO, true)
        .unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "force does not wait"
    );
    machines.remove(&who(), "file1", true).unwrap();
    assert!(machines.list().unwrap().is_empty());
    assert_eq!(
        machines.get("file1").expect_err("gone").kind(),
        Kind::NotFound
    );
    assert!(
        disk.exists(),
        "only what was made for the instance goes with it"
    );
    assert_eq!(
        std::fs::read_dir(site.directory.path().join("vm"))
            .unwrap()
            .count(),
        0
    );
    let verbs = [
        "created", "started", "stopped", "started", "stopped", "removed",
    ];
    let expected: Vec<_> = verbs
        .iter()
        .map(|verb| (format!("instance.{verb}"), "file1".to_owned()))
        .collect();
    assert_eq!(site.journal(), expected);
}

#[test]
fn a_guest_on_nbd_disks_stalls_without_its_server_and_goes_on_with_it() {
    let site = Site::new();
    raw(&site, "root1.raw", 16 << 20);
    raw(&site, "data1.raw", 4 << 20);
    site.store()
        .volume_create(&who(), "root1", Some(16 << 20), &Origin::Empty)
        .unwrap();
    site.store()
        .volume_create(&who(), "data1", Some(4 << 20), &Origin::Empty)
        .unwrap();
    let machines = site.machines(libvirt());
    let spec = InstanceSpec {
        root_volume: Some("root1".into()),
        volumes: vec!["data1".parse().unwrap()],
        ..spec(&site, "nbd1")
    };
    machines.run(&who(), spec.clone()).unwrap();
    eventually("the guest", BOOT_LIMIT, || tick(&machines, "nbd1") >= 3);
    assert!(says(&machines, "nbd1", "DISK vda ro=0 sectors=32768"));
    assert!(says(&machines, "nbd1", "DISK vdb ro=1 sectors=8192"));

    let second = InstanceSpec {
        name: "nbd2".into(),
        ..spec
    };
    let error = machines
        .run(&who(), second)
        .expect_err("the root volume has a writer");
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::Conflict, Subject::Volume),
        "{error:?}"
    );

    site.sockets.kill("nbd1");
    eventually("the stall", Duration::from_secs(60), || {
        machines.get("nbd1").unwrap().state == State::Stalled
    });
    let before = tick(&machines, "nbd1");
    let deaf = machines
        .stop(&who(), "nbd1", Duration::from_secs(1), false)
        .expect_err("it cannot hear");
    assert_eq!(deaf.kind(), Kind::Conflict);

    let machines = site.machines(libvirt());
    let resumed = machines.resume().unwrap();
    assert_eq!(
        (resumed.opened, resumed.failed.len()),
        (vec!["nbd1".to_owned()], 0)
    );
    eventually("more records", Duration::from_secs(60), || {
        tick(&machines, "nbd1") > before + 3
    });
    assert_eq!(machines.get("nbd1").unwrap().state, State::Running);

    // Removing it with its disks takes neither volume: both were there before.
    assert!(machines.remove(&who(), "nbd1", true).unwrap().is_empty());
    let bytes = std::fs::read(site.directory.path().join("root1.raw")).unwrap();
    assert!(
        bytes.starts_with(b"TICK "),
        "the guest wrote through the socket"
    );
    assert_eq!(site.store().volumes().unwrap().len(), 2);
}

#[test]
fn a_run_that_fails_leaves_nothing_behind() {
    let site = Site::new();
    site.store().bucket_create(&who(), "images").unwrap();
    let mut writer = site.store().object_writer("images").unwrap();
    writer.write(&vec![7; 1 << 20]).unwrap();
    writer
        .commit(
            &who(),
            "tiny.raw",
            ObjectMeta::default(),
            &Precondition::default(),
        )
        .unwrap();
    site.store()
        .image_add(&who(), "images", "tiny.raw", "tiny")
        .unwrap();
    let machines = site.machines(libvirt());
    let spec = InstanceSpec {
        image: Some("tiny".into()),
        ..spec(&site, "web1")
    };

    let no_image = InstanceSpec {
        image: Some("tinny".into()),
        ..spec.clone()
    };
    assert_eq!(
        machines.run(&who(), no_image).expect_err("no image").kind(),
        Kind::NotFound
    );

    site.sockets.refuse.store(true, Ordering::SeqCst);
    let error = machines.run(&who(), spec.clone()).expect_err("no sockets");
    assert_eq!(error.to_string(), "no sockets today");
    assert!(machines.list().unwrap().is_empty());
    assert!(site.store().volumes().unwrap().is_empty());
    assert_eq!(
        std::fs::read_dir(site.directory.path().join("vm"))
            .unwrap()
            .count(),
        0
    );

    // A volume that has the clone's name is not ours to remove.
    site.store()
        .volume_create(&who(), "web1-root", Some(1 << 20), &Origin::Empty)
        .unwrap();
    site.sockets.refuse.store(false, Ordering::SeqCst);
    let error = machines.run(&who(), spec.clone()).expect_err("taken");
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::Conflict, Subject::Volume),
        "{error:?}"
    );
    assert_eq!(site.store().volumes().unwrap().len(), 1);
    site.store().volume_remove(&who(), "web1-root").unwrap();

    // Now it works, its name is taken, and its clone goes with it.
    raw(&site, "web1-root.raw", 1 << 20);
    let made = machines.run(&who(), spec.clone()).unwrap();
    assert_eq!(made.root_volume.as_deref(), Some("web1-root"));
    let copied = made.copied.unwrap();
    assert_eq!((copied.shared_bytes, copied.rewritten_bytes), (1 << 20, 0));
    assert_eq!(
        machines.run(&who(), spec).expect_err("taken").kind(),
        Kind::Conflict
    );
    assert_eq!(
        machines.remove(&who(), "web1", true).unwrap(),
        ["web1-root"]
    );
    assert!(site.store().volumes().unwrap().is_empty());
    assert_eq!(machines.list().unwrap().len(), 0);
}

#[test]
fn a_directory_that_qemu_may_not_pass_is_named() {
    let site = Site::new();
    let user = Hypervisor::new(libvirt()).facts().unwrap().qemu_user;
    if user.is_none_or(|(user, _)| user == 0) {
        return; // This libvirt runs QEMU as a user that may pass everything.
    }
    let closed = site.directory.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    let disk = closed.join("disk.raw");
    std::fs::rename(raw(&site, "disk.raw", 1 << 20), &disk).unwrap();
    let machines = site.machines(libvirt());
    let error = machines
        .run(
            &who(),
            InstanceSpec {
                boot_file: Some(disk),
                ..spec(&site, "closed1")
            },
        )
        .expect_err("not passable");
    assert_eq!(error.kind(), Kind::Denied);
    assert!(
        error.to_string().contains(closed.to_str().unwrap()),
        "{error}"
    );
    assert!(machines.list().unwrap().is_empty());
}

#[test]
fn without_a_libvirtd_every_verb_says_how_to_start_one() {
    let site = Site::new();
    let machines = site.machines(NOBODY);
    let disk = raw(&site, "disk.raw", 1 << 20);
    let run = machines.run(
        &who(),
        InstanceSpec {
            boot_file: Some(disk),
            ..spec(&site, "web1")
        },
    );
    for error in [
        run.expect_err("run"),
        machines.list().expect_err("list"),
        machines.host(&who()).expect_err("host"),
    ] {
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.to_string().contains("libvirtd -d"), "{error}");
    }
    assert!(
        site.store().record_list("instance").unwrap().is_empty(),
        "nothing was made"
    );
    machines.resume().expect("and the server starts without it");
}

#[test]
fn the_api_speaks_json_in_success_and_failure() {
    let site = Site::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let ask = |uri: &str, method: &str, path: &str, body: &str| {
        let router = vmctl::api::router::<Told>(site.machines(uri)).layer(axum::Extension(who()));
        let mut request = Request::builder().method(method).uri(path);
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        runtime.block_on(async {
            let answer = router
                .oneshot(request.body(Body::from(body.to_owned())).unwrap())
                .await
                .unwrap();
            let status = answer.status();
            let bytes = answer.into_body().collect().await.unwrap().to_bytes();
            (
                status,
                serde_json::from_slice::<serde_json::Value>(&bytes).expect("JSON"),
            )
        })
    };
    for (method, path, body, kind) in [
        ("GET", "/vms/none", "", Kind::NotFound),
        ("GET", "/vms/none/addresses", "", Kind::NotFound),
        ("DELETE", "/vms/none?disks=true", "", Kind::NotFound),
        ("POST", "/vms", "{", Kind::Invalid),
        ("POST", "/vms", r#"{"name":"a","imgae":"x"}"#, Kind::Invalid),
        (
            "POST",
            "/vms",
            r#"{"name":"../a","image":"x"}"#,
            Kind::Invalid,
        ),
        ("POST", "/vms/a/stop?timeout_s=1000", "", Kind::Invalid),
        ("POST", "/vms/a/stop?wait=1", "", Kind::Invalid),
        ("GET", "/vms", "", Kind::Unavailable),
        ("GET", "/hosts", "", Kind::Unavailable),
    ] {
        let (answered, value) = ask(NOBODY, method, path, body);
        assert_eq!(answered, StatusCode::IM_A_TEAPOT, "{method} {path}");
        assert_eq!(
            value["kind"],
            format!("{kind:?}"),
            "{method} {path}: {value}"
        );
        assert!(
            value["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        );
    }
    // What is not to be changed over says so by a status and a header of its own.
    let (answered, _) = ask(NOBODY, "GET", "/vms/none/ssh", "");
    assert_eq!(answered, StatusCode::UPGRADE_REQUIRED);

    let (status, hosts) = ask(libvirt(), "GET", "/hosts", "");
    assert_eq!(status, StatusCode::OK, "{hosts}");
    let host = &hosts["hosts"][0];
    assert!(host["cpus"].as_u64().unwrap() > 0 && host["memory_bytes"].as_u64().unwrap() > 1 << 28);
    assert!(["kvm", "tcg"].contains(&host["verdict"]["accelerator"].as_str().unwrap()));

    let disk = raw(&site, "disk.raw", 1 << 20);
    let spec = serde_json::to_string(&InstanceSpec {
        boot_file: Some(disk),
        ..spec(&site, "api1")
    })
    .unwrap();
    let (status, made) = ask(libvirt(), "POST", "/vms", &spec);
    assert_eq!(
        (status, made["state"].as_str()),
        (StatusCode::CREATED, Some("running")),
        "{made}"
    );
    let (_, listed) = ask(libvirt(), "GET", "/vms", "");
    assert_eq!(listed["instances"][0]["name"], "api1");
    let (_, console) = ask(libvirt(), "GET", "/vms/api1/console?lines=5", "");
    assert!(Path::new(console["log"].as_str().unwrap()).exists());
    let (status, stopped) = ask(
        libvirt(),
        "POST",
        "/vms/api1/stop?timeout_s=0&force=true",
        "",
    );
    assert_eq!(
        (status, stopped["state"].as_str()),
        (StatusCode::OK, Some("shut-off")),
        "{stopped}"
    );
    let (status, removed) = ask(libvirt(), "DELETE", "/vms/api1", "");
    assert_eq!(
        (status, removed["name"].as_str()),
        (StatusCode::OK, Some("api1")),
        "{removed}"
    );
    let actors = site.store().journal_after(0, 1000).unwrap();
    assert!(
        actors
            .iter()
            .filter(|event| event.subject == "api1")
            .all(|event| event.actor == "tester")
    );
}

#[test]
fn the_probe_boots_a_guest_and_remembers_the_verdict() {
    let site = Site::new();
    let machines = site.machines(NOBODY);
    let began = Instant::now();
    let verdict = machines.probe(&who()).unwrap();
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(!verdict.why.is_empty());
    if !Path::new("/dev/kvm").exists() {
        assert_eq!(verdict.accelerator, Accelerator::Tcg);
    }
    let again = vmctl::probe::verdict(site.store(), &who(), site.directory.path(), false).unwrap();
    assert_eq!(again, verdict);

    // Another boot of the host makes it void.
    let mut old = serde_json::to_value(&verdict).unwrap();
    old["boot_id"] = "another".into();
    old["why"] = "stale".into();
    let (kind, name) = (vmctl::probe::RECORD_KIND, vmctl::probe::RECORD_NAME);
    site.store()
        .record_put(&who(), kind, name, &old, None)
        .unwrap();
    let anew = vmctl::probe::verdict(site.store(), &who(), site.directory.path(), false).unwrap();
    assert_ne!(anew.why, "stale");
}
