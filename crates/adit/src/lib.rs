//! The program: what a verb does, from its arguments to the kernel and back.
//!
//! | module | what it is for |
//! |---|---|
//! | [`cli`] | verbs: what was typed, turned into a call of one of the modules below |
//! | [`config`] | the configuration file: raw (what was written) → resolved (checked, defaults filled in) |
//! | [`key`] | X25519 keys: files, text, generation |
//! | [`api`] | the control protocol between a daemon and `status` or `down` |
//! | [`observe`] | what a person reads about a running daemon |
//! | [`up`] | the daemon's life, from its configuration to a clean stop |
//! | [`apply`] | changes to the host, and taking them back |
//! | [`demo`] | two hosts with containers, built in namespaces |
#![forbid(unsafe_code)]

pub mod api;
pub mod apply;
pub mod cli;
pub mod config;
pub mod demo;
mod directories;
mod failure;
pub mod key;
pub mod observe;
pub mod up;

pub use directories::Directories;
pub use failure::{Failure, Result};
