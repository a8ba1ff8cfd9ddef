//! Asking a daemon.

use std::{
    fs, io,
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{MAX_ANSWER, Request, Response, Status, TIMEOUT, line};
use crate::{Failure, Result};

/// The socket that takes every request: `<device>.sock`.
pub fn control_socket(runtime_dir: &Path, device: &str) -> PathBuf {
    runtime_dir.join(format!("{device}.sock"))
}

/// How the names of status sockets end, and of no other files.
pub(crate) const STATUS_ENDING: &str = ".status.sock";

/// The socket that only answers [`Request::Status`]: `<device>.status.sock`.
pub fn status_socket(runtime_dir: &Path, device: &str) -> PathBuf {
    runtime_dir.join(format!("{device}{STATUS_ENDING}"))
}

/// What to do where no daemon runs.
pub(crate) const START: &str = "start one with `adit up`, or that of a tunnel with `adit up --config FILE`";

/// Why a daemon gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no socket: no daemon runs, or one has just ended.
    #[error("no adit daemon is running at {}; {START}", .0.display())]
    Absent(PathBuf),
    /// There is a socket but nobody behind it: the daemon was killed.
    #[error("the daemon at {} was killed; its device may still be there: `adit up` takes it over, `adit down` removes it", .0.display())]
    Dead(PathBuf),
    /// We may not use the socket.
    #[error("permission denied at {}: run as root, or as a member of group adit", .0.display())]
    Denied(PathBuf),
    /// No answer in time, or none that makes sense.
    #[error("the daemon at {} does not answer: {}", .0.display(), .1)]
    Broken(PathBuf, io::Error),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::failed(error.to_string())
    }
}

/// Sends one request to the socket at `path` and waits for its answer.
///
/// # Errors
/// See [`CallError`]. A refusal by the daemon is not one of them but [`Response::Error`].
pub fn call(path: &Path, request: Request) -> std::result::Result<Response, CallError> {
    call_within(path, request, TIMEOUT)
}

/// The same for a request that may take longer.
///
/// # Errors
/// As those of [`call`].
pub fn call_within(path: &Path, request: Request, patience: Duration) -> std::result::Result<Response, CallError> {
    let broken = |error: io::Error| match error.kind() {
        // What the kernel calls a time-out of a socket, and what we call one.
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            CallError::Broken(path.into(), io::Error::other(format!("nothing came within {} s", patience.as_secs())))
        }
        _ => CallError::Broken(path.into(), error),
    };
    let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => CallError::Absent(path.into()),
        io::ErrorKind::ConnectionRefused => CallError::Dead(path.into()),
        io::ErrorKind::PermissionDenied => CallError::Denied(path.into()),
        _ => broken(error),
    })?;
    let mut question = serde_json::to_vec(&request).map_err(|error| broken(error.into()))?;
    question.push(b'\n');
    let deadline = Instant::now() + patience;
    // A daemon that refuses us answers without having read: its answer counts, not our broken pipe.
    let sent = line::write(&stream, &question, deadline);
    let answer = line::read(&stream, MAX_ANSWER, deadline).map_err(broken)?;
    if answer.is_empty() {
        return Err(broken(sent.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())));
    }
    serde_json::from_slice(&answer).map_err(|error| broken(error.into()))
}

/// Asks the daemon of `device` for its state, as anybody may.
///
/// # Errors
/// See [`CallError`].
pub fn status(runtime_dir: &Path, device: &str) -> std::result::Result<Status, CallError> {
    let path = status_socket(runtime_dir, device);
    match call(&path, Request::Status)? {
        Response::Status(status) => Ok(*status),
        Response::Done
        | Response::Changed { .. }
        | Response::Examined(_)
        | Response::Tracing { .. }
        | Response::Traced(_)
        | Response::Bench(_) => Err(CallError::Broken(path, io::Error::other("it answered something else"))),
        Response::Error { sentence } | Response::Fault { sentence } => {
            Err(CallError::Broken(path, io::Error::other(sentence)))
        }
    }
}

/// The devices whose daemons have sockets in `runtime_dir`, dead or alive, in alphabetical order. Each has a status socket, whose name nothing else
/// may have: a page may be served at `page.sock` in the same directory.
///
/// # Errors
/// The directory cannot be read. That it does not exist is not an error: then there are none.
pub fn daemons(runtime_dir: &Path) -> Result<Vec<String>> {
    let failed = |error: io::Error| {
        Failure::failed(format!("cannot read the runtime directory {}: {error}", runtime_dir.display()))
    };
    let entries = match fs::read_dir(runtime_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut devices = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(device) = name.to_str().and_then(|name| name.strip_suffix(STATUS_ENDING)) else { continue };
        // An entry may vanish while we look, with its daemon.
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        if is_socket && crate::config::check_device(device).is_ok() {
            devices.push(device.to_owned());
        }
    }
    devices.sort();
    Ok(devices)
}
