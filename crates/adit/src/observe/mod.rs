//! What a person reads about a running daemon.

pub mod bench;
pub mod containers;
pub mod doctor;
pub mod facts;
pub mod human;
pub mod metrics;
pub mod status;
pub mod table;
pub mod trace;
pub mod watch;
pub mod web;
