//! `infall serve`: one process with the store open and all doors on it.
//!
//! 1. The store is opened first: it is the lock on the data directory, and nothing is made there
//!    or listened on before it is held.
//! 2. Beyond loopback nothing is served without TLS.
//! 3. `server.json` appears when everything answers and goes when the server stops; a killed
//!    server leaves it, which costs a client one refused connection.
//! 4. Stopping: no new requests, those under way get a deadline, then NBD, mounts, the store.

mod connections;
mod disks;
mod door;
mod instances;
mod log;
mod mounts;
mod origin;
mod pace;
mod retention;
mod strict;
mod tickets;
pub(crate) mod tls;

pub(crate) use disks::DiskList;
pub(crate) use mounts::{MountAsk, MountList, MountShown};
pub(crate) use origin::Proxies;
pub(crate) use tickets::{TicketAsk, TicketList, TicketMade, VolumeTicketAsk};

use crate::context::{Context, load_credentials};
use crate::exit::{Exit, Failure, Outcome};
use crate::render;
use crate::server_file::{CREDENTIALS_FILE, ServerFile};
use access::Credentials;
use blockstore::Store;
use clap::Args;
use disks::Disks;
use fuse::nbd::{self, Exports, Listener};
use gateway::api::Closing;
use mounts::Mounts;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The NBD socket, in the data directory.
const NBD_SOCKET: &str = "nbd.sock";
/// Sockets of instances' disks, below the data directory.
const RUN_DIRECTORY: &str = "run";
/// Seeds and consoles of instances, below the data directory.
const VM_DIRECTORY: &str = "vms";

/// How to serve.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
S3 and the JSON API answer on one address, NBD on a unix socket in the data directory (and on TCP
only if asked). The first start makes the root key and shows it once; later it is in
DIR/credentials (0600). It runs in the foreground until SIGINT or SIGTERM. Logs go to stderr.

Examples:
  infall serve
  infall serve --listen 127.0.0.1:0 --data /srv/infall      a free port; see server.json there
  infall serve --nbd-tcp 127.0.0.1:10809
  infall serve --log debug --log-json 2> infall.log")]
pub(crate) struct Arguments {
    /// S3 and the JSON API; port 0 takes a free one [default: 127.0.0.1:9000]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// NBD on TCP, too
    #[arg(long, value_name = "ADDRESS")]
    nbd_tcp: Option<String>,
    /// The region that S3 clients sign for [default: infall]
    #[arg(long)]
    region: Option<String>,
    /// Domain below which each bucket is a host: images.s3.example.org; may be repeated
    #[arg(long, value_name = "DOMAIN")]
    s3_domain: Vec<String>,
    /// Log lines as JSON
    #[arg(long)]
    log_json: bool,
}

impl Arguments {
    /// Flags that are settings.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        let domains = (!self.s3_domain.is_empty()).then(|| self.s3_domain.join(", "));
        let log_json = self.log_json.then(|| "true".to_owned());
        [
            ("serve.listen", self.listen.clone()),
            ("serve.nbd_tcp", self.nbd_tcp.clone()),
            ("serve.region", self.region.clone()),
            ("s3.domain", domains),
            ("log.json", log_json),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect()
    }
}

/// Serves until told to stop.
pub(crate) async fn run(context: &Context, _: Arguments) -> Outcome {
    log::start(context.config.log_level(), context.config.log_json())?;
    raise_file_limit();
    // Taken before anything takes long: a stop during a long start must not be the default kill.
    let stopped = stop_signal()?;
    let listen = context.config.listen()?;
    let nbd_tcp = context.config.nbd_tcp()?;
    let options = context.config.store()?;
    for problem in options.images.problems()? {
        tracing::warn!(problem, "a line of images.signers adds nobody");
    }
    let mut listeners = vec![("serve.listen", listen)];
    listeners.extend(nbd_tcp.map(|address| ("serve.nbd_tcp", address)));
    // What is refused is refused before anything is made.
    tls::choose(&context.config, &context.data()?, &listeners)?;
    let data = prepare(&context.data()?)?;
    let identity = tls::choose(&context.config, &data, &listeners)?
        .map(tls::Identity::load)
        .transpose()?
        .map(Arc::new);
    disks::check_path(&data.join(NBD_SOCKET))?;
    let store = {
        let data = data.clone();
        blocking(move || Store::open(&data, options).map_err(Failure::from)).await?
    };
    let serving = Serving {
        context,
        data: &data,
        store: store.clone(),
        closing: Closing::default(),
        identity,
    };
    let served = serving.serve(listen, nbd_tcp, stopped).await;
    ServerFile::remove(&data);
    let closed = blocking(move || store.close().map_err(Failure::from)).await;
    tracing::info!("stopped");
    served.and(closed)
}

/// Everything while the store is open.
struct Serving<'a> {
    context: &'a Context,
    data: &'a Path,
    store: Store,
    closing: Closing,
    identity: Option<Arc<tls::Identity>>,
}

impl Serving<'_> {
    async fn serve(
        &self,
        listen: SocketAddr,
        nbd_tcp: Option<SocketAddr>,
        stopped: impl Future<Output = ()>,
    ) -> Outcome {
        let config = &self.context.config;
        let (credentials, made) = load_credentials(&self.data.join(CREDENTIALS_FILE))?;
        let access = access::Access::open(self.store.clone(), credentials.clone())?;
        access.keep_root_in(self.data.join(CREDENTIALS_FILE));
        let socket = tokio::net::TcpListener::bind(listen)
            .await
            .map_err(|error| taken(listen, &error))?;
        let address = socket.local_addr().map_err(|error| taken(listen, &error))?;

        let audit = access.clone();

        let nbd_socket = self.data.join(NBD_SOCKET);
        let mut exporters = vec![
            self.nbd(
                Listener::unix(&nbd_socket, 0o600, None, Exports::All)
                    .map(|listener| listener.operator(access.clone())),
            )?,
        ];
        if let Some(address) = nbd_tcp {
            let tls = self.identity.as_ref().map(|identity| identity.nbd());
            exporters.push(self.nbd(Listener::tcp(address, access.clone(), tls))?);
        }
        let nbd_tcp = exporters.iter().find_map(nbd::Server::local_addr);

        let disks = Arc::new(Disks::new(
            self.store.clone(),
            self.data.join(RUN_DIRECTORY),
        )?);
        let machines = self.machines(&disks).await?;
        let mounts = Mounts::new(self.store.clone(), access.clone());
        let extra = vmctl::api::router::<instances::Told>(machines)
            .merge(disks::router(Arc::clone(&disks)))
            .merge(tickets::router(tickets::Tickets {
                access: access.clone(),
                store: self.store.clone(),
                address: nbd_tcp,
                tls: self.identity.is_some(),
            }))
            .merge(mounts::router(mounts.clone()));
        let domains = config.s3_domains()?;
        let sts = gateway::Sts::new(access.clone());
        let doors = door::Doors {
            api: gateway::api::router(self.store.clone(), access.clone(), extra),
            cdmi: Some(gateway::cdmi::router(
                self.store.clone(),
                access.clone(),
                config.cdmi()?,
            )),
            dav: Some(self.dav(access.clone()).await?),
            login: gateway::login_service(sts.clone()),
            query: gateway::query_service(sts),
            domains: domains.clone(),
            s3: gateway::s3_service(self.store.clone(), access, config.region(), domains),
        };
        let application = door::application(doors, self.closing.clone());

        let file = ServerFile {
            endpoint: self.endpoint(address),
            ca: self.ca(),
            pid: std::process::id(),
            nbd_socket,
            nbd_tcp: nbd_tcp.map(|address| address.to_string()),
            region: config.region().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        file.write(self.data).map_err(|error| {
            Failure::io(
                format_args!("write server.json in {}", self.data.display()),
                &error,
            )
        })?;
        self.announce(&file, made.then_some(&credentials));

        let stopped = async {
            stopped.await;
            tracing::info!("stopping");
            self.closing.0.cancel();
        };
        let terms = connections::Terms {
            tls: self.identity.as_ref().map(|identity| identity.http()),
            proxies: config.trusted_proxies()?,
            connections_max: config.connections_max()?,
            deadline: config.shutdown_deadline()?,
        };
        let watching = CancellationToken::new();
        let _end = watching.clone().drop_guard();
        let keep = config.journal()?;
        tokio::spawn(retention::trim(self.store.clone(), keep, watching.clone()));
        if let Some(identity) = &self.identity {
            tokio::spawn(Arc::clone(identity).watch(watching));
        }
        connections::serve(socket, application, terms, stopped).await;
        let ended = blocking(move || {
            // Disks first: a guest's last writes are answered before the store closes below it.
            disks.stop();
            exporters.iter().for_each(nbd::Server::stop);
            let unmounted = mounts.stop();
            // The last decisions reach the journal before the store closes below them.
            unmounted.and(audit.flush().map_err(Failure::from))
        });
        ended.await
    }

    /// How clients on this machine reach `address`.
    fn endpoint(&self, address: SocketAddr) -> String {
        let mut near = address;
        if address.ip().is_unspecified() {
            near.set_ip(match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        match self.identity {
            Some(_) => format!("https://{near}"),
            None => format!("http://{near}"),
        }
    }

    /// The CA of our own certificate.
    fn ca(&self) -> Option<PathBuf> {
        self.identity.as_ref()?.ca(self.data)
    }

    /// The WebDAV door, with the servers it may be told to speak to.
    async fn dav(&self, access: access::Access) -> Outcome<axum::Router> {
        let hosts = self.context.config.dav_hosts()?;
        let ca = self.context.config.dav_ca();
        let times = self.context.config.dav_times()?;
        let store = self.store.clone();
        blocking(move || {
            let authorities = match ca {
                Some(path) => Some(std::fs::read(&path).map_err(|error| {
                    Failure::io(format_args!("read {} (dav.tpc_ca)", path.display()), &error)
                })?),
                None => None,
            };
            let transfers = gateway::dav::TransferSettings {
                hosts,
                authorities,
                times,
            };
            gateway::dav::router(store, access, transfers).map_err(Failure::from)
        })
        .await
    }

    fn nbd(&self, listener: nbd::Result<Listener>) -> Outcome<nbd::Server> {
        listener
            .and_then(|listener| nbd::serve(self.store.clone(), listener))
            .map_err(|error| {
                let exit = match &error {
                    nbd::Error::SocketInUse(_) | nbd::Error::NotASocket(_) => Exit::Conflict,
                    nbd::Error::Listen { source, .. } => Failure::io("", source).exit(),
                    nbd::Error::Thread(_) => Exit::Unavailable,
                };
                let failure = Failure::new(exit, "nbd", error.to_string());
                match std::error::Error::source(&error) {
                    Some(source) => failure.because(source),
                    None => failure,
                }
            })
    }

    /// Instances, with the disks of those that outlived the last server served again.
    async fn machines(&self, disks: &Arc<Disks>) -> Outcome<vmctl::Machines> {
        let sockets: Arc<dyn vmctl::Sockets> = Arc::clone(disks) as Arc<dyn vmctl::Sockets>;
        let (store, state) = (self.store.clone(), self.data.join(VM_DIRECTORY));
        let uri = self.context.config.vm_uri().to_owned();
        blocking(move || {
            let machines = vmctl::Machines::new(store, state, &uri, sockets)?;
            let resumed = machines.resume()?;
            if !resumed.opened.is_empty() {
                tracing::info!(
                    instances = resumed.opened.join(", "),
                    "disks are served again"
                );
            }
            for (instance, error) in &resumed.failed {
                tracing::error!(instance, error = %error.chain(), "its disks are not served");
            }
            Ok(machines)
        })
        .await
    }

    fn announce(&self, file: &ServerFile, made: Option<&Credentials>) {
        tracing::info!(endpoint = file.endpoint, data = %self.data.display(), "serving");
        if self.context.json {
            let text = serde_json::to_string(file).unwrap_or_default();
            return render::print(&format!("{text}\n"));
        }
        let mut text = format!(
            "infall {} · one node · data {} · {}\n",
            file.version,
            self.data.display(),
            match &self.identity {
                Some(_) => "TLS",
                None => "only loopback is open",
            }
        );
        if let Some(pair) = made {
            text.push_str(&format!(
                "Root key made, shown this once: {}  secret {}    (kept, 0600: {})\n",
                pair.access_key,
                pair.secret_key,
                self.data.join(CREDENTIALS_FILE).display()
            ));
        }
        text.push_str(&format!(
            "{} · NBD {}",
            file.endpoint,
            file.nbd_socket.display()
        ));
        if let Some(address) = &file.nbd_tcp {
            text.push_str(&format!(" and {address}"));
        }
        text.push_str(" · next: eval \"$(infall env)\"\n");
        render::print(&text);
    }
}

/// The data directory, made if needed, as an absolute path.
fn prepare(data: &Path) -> Outcome<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    // Others may pass, for QEMU's user has its sockets below, but not list or read.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o066));
    let failed = |error: std::io::Error| {
        Failure::io(
            format_args!("make the data directory {}", data.display()),
            &error,
        )
        .hint("Choose another: --data DIR")
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(data)
        .map_err(failed)?;
    std::fs::canonicalize(data).map_err(failed)
}

fn taken(address: SocketAddr, error: &std::io::Error) -> Failure {
    let failure = match error.kind() {
        std::io::ErrorKind::AddrInUse => Failure::new(
            Exit::Conflict,
            "address",
            format!("something else listens on {address}"),
        ),
        _ => Failure::io(format_args!("listen on {address}"), error),
    };
    failure.hint("Choose another: --listen 127.0.0.1:0 takes a free port")
}

/// As many open files as the system lets us have: each connection is one.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit on open files stays as it is");
    }
}

/// Ready once SIGINT or SIGTERM came.
fn stop_signal() -> Outcome<impl Future<Output = ()>> {
    let failed = |error: std::io::Error| Failure::io("listen for signals", &error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

async fn blocking<T, F>(work: F) -> Outcome<T>
where
    T: Send + 'static,
    F: FnOnce() -> Outcome<T> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        Failure::new(Exit::Internal, "server", "a thread of the server broke off").because(error)
    })?
}
