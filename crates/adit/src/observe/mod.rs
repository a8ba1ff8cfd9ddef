//! What a person reads about a running daemon.

pub mod containers;
pub mod doctor;
pub mod facts;
pub mod human;
pub mod status;
pub mod table;
