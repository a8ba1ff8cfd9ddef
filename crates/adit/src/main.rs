//! The program: parses its command line, does what the verb says, and ends with 0 (done), 1 (failed) or 2 (wrong usage or
//! configuration). Where a container runtime calls it as its CNI plugin it is that, and nothing else.
#![forbid(unsafe_code)]

use std::{
    io::{self, Write},
    process::ExitCode,
};

fn main() -> ExitCode {
    if adit::container::cni::is_asked() {
        return ExitCode::from(adit::container::cni::run());
    }
    if let Err(error) = linux::name_service::ask_without_modules() {
        let _ = writeln!(io::stderr(), "adit: {error}");
    }
    let cli = match adit::cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(answer) => {
            // Help goes to standard output, a fault to standard error; a reader that left needs neither.
            let _ = answer.print();
            return ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(2));
        }
    };
    let outcome = cli.run();
    adit::logging::tell_all_withheld();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.sentence().is_empty() {
                let _ = writeln!(io::stderr(), "adit: {failure}");
            }
            ExitCode::from(failure.exit_code())
        }
    }
}
