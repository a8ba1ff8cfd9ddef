//! The calls, generated from `proto/`: etcd's v3 API as far as it is used, and joining.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]

pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

pub mod enrolment {
    tonic::include_proto!("adit.enrolment.v1");
}

/// The key of what goes with the refusal of a user who was put out (metadata of gRPC, bytes): see `docs/NETWORK.md`.
pub(crate) const FAREWELL: &str = "adit-farewell-bin";
