//! What a person reads about a running daemon.
