//! Networks of nodes: made and joined by the verbs, on hosts in namespaces.

#[path = "../bed/mod.rs"]
mod bed;
mod clients;
mod cluster;
mod crowd;
mod etcd;
mod flannel;
mod flow;
mod hostile;
mod living;
mod meeting;
mod quickstart;
mod refusals;
mod shared;
mod story;
mod world;
