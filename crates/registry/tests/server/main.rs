//! What the registry promises beyond etcd's API, and where it differs from etcd on purpose.

mod host;
mod keeping;
mod lines;
mod people;
mod watching;
