//! Names in a program without shared libraries.
//!
//! glibc finds out in `/etc/nsswitch.conf` whom to ask for hosts, users and groups, and loads a module for each. A program that is linked
//! statically loads modules, and with them the C library, of whatever version the host has, which fits its own by chance only. The
//! modules `files` and `dns` are built in.

use std::ffi::CStr;

use crate::{Error, Result};

/// The databases that adit asks, and whom it then asks: `/etc/hosts` and DNS, `/etc/passwd`, `/etc/group`.
const SOURCES: [(&CStr, &CStr); 4] =
    [(c"hosts", c"files dns"), (c"passwd", c"files"), (c"group", c"files"), (c"initgroups", c"files")];

/// In a statically linked program: asks only whom it can ask without loading anything. To be called before the first name is asked for, and
/// before there are threads. Elsewhere there is nothing to do.
///
/// # Errors
/// The C library does not know a source (EINVAL).
pub fn ask_without_modules() -> Result<()> {
    if cfg!(target_feature = "crt-static") { configure() } else { Ok(()) }
}

#[cfg(target_env = "gnu")]
fn configure() -> Result<()> {
    unsafe extern "C" {
        /// Of nss.h: whom to ask for what a database has, whatever nsswitch.conf says.
        fn __nss_configure_lookup(database: *const libc::c_char, sources: *const libc::c_char) -> libc::c_int;
    }
    for (database, sources) in SOURCES {
        // SAFETY: both are strings with a NUL at their end, which live as long as the program.
        if unsafe { __nss_configure_lookup(database.as_ptr(), sources.as_ptr()) } != 0 {
            let operation = format!("choose whom to ask for {}", database.to_string_lossy());
            return Err(Error::new(operation, std::io::Error::last_os_error()));
        }
    }
    Ok(())
}

#[cfg(not(target_env = "gnu"))]
fn configure() -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::ToSocketAddrs;

    use super::*;

    #[test]
    fn files_and_dns_are_enough() {
        ask_without_modules().unwrap();
        configure().unwrap();
        assert!(("localhost", 1).to_socket_addrs().unwrap().count() > 0);
        assert!(crate::privilege::user_in_group(0, "root").unwrap());
    }
}
