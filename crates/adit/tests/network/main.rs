//! Networks of nodes: made and joined by the verbs, on hosts in namespaces.

#[path = "../bed/mod.rs"]
mod bed;
mod clients;
mod living;
mod meeting;
mod quickstart;
mod refusals;
mod story;
mod world;
