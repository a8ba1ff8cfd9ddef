//! A client of the interface by which a kubelet speaks with its runtime (CRI, `runtime.v1`), as far as tests need it. What the messages mean, and
//! the numbers of their fields: `api.proto` of Kubernetes' cri-api.

use std::path::Path;
use std::time::Duration;

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// How long the runtime may take for anything.
const PATIENCE: Duration = Duration::from_secs(30);

macro_rules! messages {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field:meta])* $part:ident: $kind:ty),* $(,)? })+) => {
        $($(#[$meta])* #[derive(Clone, PartialEq, prost::Message)] pub(crate) struct $name { $($(#[$field])* pub(crate) $part: $kind),* })+
    };
}

messages! {
    /// Which pod it is.
    PodSandboxMetadata {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(string, tag = "2")]
        uid: String,
        #[prost(string, tag = "3")]
        namespace: String,
        /// How often it was made before.
        #[prost(uint32, tag = "4")]
        attempt: u32,
    }
    /// A port of the host that leads to the pod; TCP.
    PortMapping {
        #[prost(int32, tag = "2")]
        container_port: i32,
        #[prost(int32, tag = "3")]
        host_port: i32,
    }
    LinuxPodSandboxConfig {
        #[prost(string, tag = "1")]
        cgroup_parent: String,
    }
    PodSandboxConfig {
        #[prost(message, optional, tag = "1")]
        metadata: Option<PodSandboxMetadata>,
        #[prost(string, tag = "2")]
        hostname: String,
        #[prost(string, tag = "3")]
        log_directory: String,
        #[prost(message, repeated, tag = "5")]
        port_mappings: Vec<PortMapping>,
        #[prost(message, optional, tag = "8")]
        linux: Option<LinuxPodSandboxConfig>,
    }
    RunPodSandboxRequest {
        #[prost(message, optional, tag = "1")]
        config: Option<PodSandboxConfig>,
    }
    /// What names a pod or a container, and nothing else: a request and an answer of many calls.
    Id {
        #[prost(string, tag = "1")]
        id: String,
    }
    Nothing {}
    PodIp {
        #[prost(string, tag = "1")]
        ip: String,
    }
    PodSandboxNetworkStatus {
        #[prost(string, tag = "1")]
        ip: String,
        #[prost(message, repeated, tag = "2")]
        additional_ips: Vec<PodIp>,
    }
    PodSandboxStatus {
        #[prost(message, optional, tag = "5")]
        network: Option<PodSandboxNetworkStatus>,
    }
    PodSandboxStatusResponse {
        #[prost(message, optional, tag = "1")]
        status: Option<PodSandboxStatus>,
    }
    ImageSpec {
        #[prost(string, tag = "1")]
        image: String,
    }
    ContainerMetadata {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(uint32, tag = "2")]
        attempt: u32,
    }
    ContainerConfig {
        #[prost(message, optional, tag = "1")]
        metadata: Option<ContainerMetadata>,
        #[prost(message, optional, tag = "2")]
        image: Option<ImageSpec>,
        #[prost(string, repeated, tag = "3")]
        command: Vec<String>,
    }
    CreateContainerRequest {
        #[prost(string, tag = "1")]
        pod_sandbox_id: String,
        #[prost(message, optional, tag = "2")]
        config: Option<ContainerConfig>,
        #[prost(message, optional, tag = "3")]
        sandbox_config: Option<PodSandboxConfig>,
    }
    ExecSyncRequest {
        #[prost(string, tag = "1")]
        container_id: String,
        #[prost(string, repeated, tag = "2")]
        cmd: Vec<String>,
        #[prost(int64, tag = "3")]
        timeout: i64,
    }
    ExecSyncResponse {
        #[prost(bytes = "vec", tag = "1")]
        stdout: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        stderr: Vec<u8>,
        #[prost(int32, tag = "3")]
        exit_code: i32,
    }
    StatusResponse {
        #[prost(message, optional, tag = "1")]
        status: Option<RuntimeStatus>,
    }
    RuntimeStatus {
        #[prost(message, repeated, tag = "1")]
        conditions: Vec<Condition>,
    }
    Condition {
        #[prost(string, tag = "1")]
        kind: String,
        #[prost(bool, tag = "2")]
        holds: bool,
    }
}

/// A connection to a runtime.
pub(crate) struct Client {
    executor: tokio::runtime::Runtime,
    channel: Channel,
}

impl Client {
    /// Connects to a socket; an error while nobody listens there.
    pub(crate) fn connect(socket: &Path) -> Result<Self, tonic::transport::Error> {
        let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))?.timeout(PATIENCE);
        let channel = executor.block_on(endpoint.connect())?;
        Ok(Self { executor, channel })
    }

    /// Calls the service of the runtime.
    pub(crate) fn call<Q, A>(&self, method: &str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{method}")).unwrap();
        self.executor.block_on(async {
            let mut service = Grpc::new(self.channel.clone());
            service.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            Ok(service.unary(Request::new(request), path, codec).await?.into_inner())
        })
    }
}
