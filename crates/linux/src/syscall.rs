//! The one bridge from libc's return convention to `io::Result`.

/// Calls a libc function that answers -1 and sets errno on failure; the value is an `io::Result`.
macro_rules! syscall {
    ($name:ident ( $($argument:expr),* $(,)? )) => {{
        // SAFETY: the caller states beside the macro why the arguments are valid for this call.
        let result = unsafe { libc::$name($($argument),*) };
        if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
    }};
}

pub(crate) use syscall;
