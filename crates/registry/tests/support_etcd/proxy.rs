//! What stands between a client and a registry, and does not always let it pass.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Forward,
    /// Accepts, and closes at once.
    Refuse,
    /// Accepts, and says nothing.
    Stall,
    /// Lets questions through and swallows the answers.
    Swallow,
}

/// A proxy that counts.
pub struct Proxy {
    pub address: SocketAddr,
    /// Another mode ends the present connections.
    mode: watch::Sender<Mode>,
    connections: Arc<AtomicU64>,
    /// Bytes from clients.
    asked: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub async fn new(target: SocketAddr, mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, modes) = watch::channel(mode);
        let (connections, asked) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counters = (connections.clone(), asked.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counters.0.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(carry(stream, target, modes.clone(), counters.1.clone()));
            }
        });
        Self { address, mode: sender, connections, asked, task }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes what it does; the present connections end.
    pub fn set(&self, mode: Mode) {
        self.mode.send(mode).unwrap();
    }

    /// Ends the present connections.
    pub fn cut(&self) {
        self.mode.send_modify(|_| {});
    }

    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn carry(mut near: TcpStream, target: SocketAddr, mut modes: watch::Receiver<Mode>, asked: Arc<AtomicU64>) {
    let mode = *modes.borrow_and_update();
    match mode {
        Mode::Refuse => {}
        Mode::Stall => {
            let _ = modes.changed().await;
        }
        Mode::Forward | Mode::Swallow => {
            let Ok(mut far) = TcpStream::connect(target).await else { return };
            let (mut from_near, mut from_far) = (vec![0; 65_536], vec![0; 65_536]);
            loop {
                tokio::select! {
                    _ = modes.changed() => return,
                    read = near.read(&mut from_near) => match read {
                        Ok(count) if count > 0 => {
                            asked.fetch_add(count as u64, Ordering::Relaxed);
                            if far.write_all(&from_near[..count]).await.is_err() {
                                return;
                            }
                        }
                        _ => return,
                    },
                    read = far.read(&mut from_far) => match read {
                        Ok(count) if count > 0 => {
                            if mode == Mode::Forward && near.write_all(&from_far[..count]).await.is_err() {
                                return;
                            }
                        }
                        _ => return,
                    },
                }
            }
        }
    }
}

/// An address where packets vanish: the queue of who listens there is full, and the kernel drops who comes.
pub struct Hole {
    pub address: SocketAddr,
    _listener: TcpListener,
    _waiting: Vec<std::net::TcpStream>,
}

impl Hole {
    pub fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            waiting.push(stream);
        }
        Self { address, _listener: listener, _waiting: waiting }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}
