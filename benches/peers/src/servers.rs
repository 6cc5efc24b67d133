//! Programs that are started for their peer and stopped after it: on loopback or a Unix socket, with all their data in
//! the directory of the run.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::way::{Result, failed, retry};

/// What a peer needs to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing but this program.
    Nothing,
    /// A library of the system.
    Library(&'static str),
    /// The Python interpreter.
    Python,
    /// A C++ compiler and Boost's headers.
    Boost,
    Redis,
    Nats,
    RabbitMq,
}

/// Boost's queue as functions of C: what `ways/boost.rs` loads.
const BOOST_SOURCE: &str = include_str!("ways/boost_queue.cpp");

/// How long a server may take to answer its first connection. RabbitMQ takes ten seconds on a busy machine.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// What a peer needs, as long as it is needed.
#[derive(Debug, Default)]
pub(crate) struct Server {
    running: Vec<Running>,
    /// What the peer's ends are told: an address, a file, a path.
    pub(crate) address: String,
}

impl Server {
    /// Nothing that runs, only where to find it.
    fn at(address: impl Into<String>) -> Self {
        Self { running: Vec::new(), address: address.into() }
    }
}

/// Starts what a peer needs; `None` with a line for the user where it is not installed.
pub(crate) fn start(need: Need, directory: &Path) -> Result<std::result::Result<Server, String>> {
    let missing = |what: &str| Ok(Err(format!("{what} is not installed")));
    match need {
        Need::Nothing => Ok(Ok(Server::default())),
        Need::Library(name) => match super::ways::library::Library::open(name) {
            Ok(_) => Ok(Ok(Server::at(name))),
            Err(_) => missing(name),
        },
        Need::Python => match program("python3") {
            Some(python) => Ok(Ok(Server::at(python.display().to_string()))),
            None => missing("python3"),
        },
        Need::Boost => boost(directory),
        Need::Redis => match program("redis-server") {
            Some(path) => redis(&path, directory).map(Ok),
            None => missing("redis-server"),
        },
        Need::Nats => match program("nats-server") {
            Some(path) => nats(&path, directory).map(Ok),
            None => missing("nats-server"),
        },
        Need::RabbitMq => {
            let script = Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
            match program("epmd") {
                Some(epmd) if script.exists() => rabbitmq(script, &epmd, directory).map(Ok),
                _ => missing("rabbitmq-server"),
            }
        }
    }
}

/// Where a program is that the shell would find, or one for the administrator.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(["/usr/sbin", "/usr/local/bin", "/usr/bin"].map(PathBuf::from));
    places.into_iter().map(|place| place.join(name)).find(|path| path.is_file())
}

/// A program in a process group of its own, so that nothing that it started stays behind, and a guard that ends the group if
/// this process is killed.
#[derive(Debug)]
struct Running {
    child: Child,
    guard: Child,
}

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        Self::start_into(command.stderr(Stdio::null()), Stdio::null())
    }

    fn start_into(command: &mut Command, output: Stdio) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.process_group(0).stdin(Stdio::null()).stdout(output);
        let mut child = command.spawn().map_err(|error| failed(format!("starting {name}"), error))?;
        // Its input ends with this process, however that ends.
        let guard = Command::new("/bin/sh")
            .args(["-c", "read line; kill -s KILL -- \"-$1\"", "guard", &child.id().to_string()])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match guard {
            Ok(guard) => Ok(Self { child, guard }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(failed("starting a guard", error))
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The guard first: afterwards the number of the group may be somebody else's.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Runs a program until it has ended well, and tells which process it was; it does not outlive this one, nor its time.
pub(crate) fn run_to_end(command: &mut Command, output: Stdio, patience: Duration) -> Result<u32> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut running = Running::start_into(command, output)?;
    let begun = Instant::now();
    loop {
        match running.child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(running.child.id()),
            Ok(Some(status)) => return Err(failed(name, status)),
            Ok(None) if begun.elapsed() > patience => return Err(failed(name, "it does not end")),
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(failed(name, error)),
        }
    }
}

/// A port of loopback that nobody listens on.
fn free_port() -> Result<u16> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| failed("a free port", error))?;
    Ok(listener.local_addr().map_err(|error| failed("a free port", error))?.port())
}

fn await_port(server: &mut Server, port: u16) -> Result<()> {
    let begun = Instant::now();
    loop {
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(());
        }
        for program in &mut server.running {
            if let Ok(Some(status)) = program.child.try_wait() {
                return Err(failed("a server", format!("it ended at once: {status}")));
            }
        }
        if begun.elapsed() > START_PATIENCE {
            return Err(failed("a server", format!("nobody listens on port {port}")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn redis(path: &Path, directory: &Path) -> Result<Server> {
    let socket = directory.join("redis.socket");
    let program = Running::start(
        Command::new(path)
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no", "--unixsocket"])
            .arg(&socket)
            .current_dir(directory),
    )?;
    let server = Server { running: vec![program], address: socket.display().to_string() };
    retry("redis-server", || UnixStream::connect(&socket))?;
    Ok(server)
}

fn nats(path: &Path, directory: &Path) -> Result<Server> {
    let port = free_port()?;
    let program = Running::start(
        Command::new(path)
            .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
            .arg(directory.join("nats")),
    )?;
    let mut server = Server { running: vec![program], address: format!("127.0.0.1:{port}") };
    await_port(&mut server, port)?;
    Ok(server)
}

fn rabbitmq(script: &Path, epmd: &Path, directory: &Path) -> Result<Server> {
    let home = directory.join("rabbitmq");
    std::fs::create_dir_all(&home).map_err(|error| failed("a directory for RabbitMQ", error))?;
    let (port, distribution, names) = (free_port()?, free_port()?, free_port()?);
    let mut server = Server { running: Vec::new(), address: format!("127.0.0.1:{port}") };
    // Started here, so that RabbitMQ does not leave one behind.
    server.running.push(Running::start(Command::new(epmd).args([
        "-port",
        &names.to_string(),
        "-address",
        "127.0.0.1",
    ]))?);
    await_port(&mut server, names)?;
    // The first three keep idle schedulers from taking the cores from those who are measured.
    let erlang = "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}";
    let program = Running::start(
        Command::new(script)
            .env("HOME", &home)
            .env("RABBITMQ_NODENAME", format!("shmbus{}@localhost", std::process::id()))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", port.to_string())
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env("RABBITMQ_MNESIA_BASE", home.join("data"))
            .env("RABBITMQ_LOG_BASE", home.join("log"))
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_PID_FILE", home.join("pid"))
            .env("RABBITMQ_CONFIG_FILE", home.join("none"))
            .env("RABBITMQ_CONF_ENV_FILE", home.join("none"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", home.join("plugins"))
            .env("ERL_EPMD_PORT", names.to_string())
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erlang),
    )?;
    server.running.push(program);
    await_port(&mut server, port)?;
    Ok(server)
}

/// Compiles the few functions that Boost's queue is reached through.
fn boost(directory: &Path) -> Result<std::result::Result<Server, String>> {
    let Some(compiler) = program("c++") else { return Ok(Err("a C++ compiler is not installed".into())) };
    let (source, library) = (directory.join("boost_queue.cpp"), directory.join("libboost_queue.so"));
    std::fs::write(&source, BOOST_SOURCE).map_err(|error| failed("writing a source file", error))?;
    let output = Command::new(compiler)
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .args(["-lrt", "-pthread"])
        .output()
        .map_err(|error| failed("the C++ compiler", error))?;
    if !output.status.success() {
        return Ok(Err("Boost's headers are not installed, or do not compile".into()));
    }
    Ok(Ok(Server::at(library.display().to_string())))
}
