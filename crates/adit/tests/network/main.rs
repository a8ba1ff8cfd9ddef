//! Networks of nodes: made and joined by the verbs, on hosts in namespaces.

#[path = "../bed/mod.rs"]
mod bed;
mod cluster;
mod crowd;
mod etcd;
mod flannel;
mod flow;
mod hostile;
mod living;
mod refusals;
mod shared;
mod story;
mod world;
