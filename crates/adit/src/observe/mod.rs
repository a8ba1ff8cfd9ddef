//! What a person reads about a running daemon.

pub mod bench;
pub mod containers;
pub mod facts;
pub mod human;
pub mod status;
pub mod table;
