//! Flags → configuration → run. The only place with exit codes.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// glibc's allocator fragments under Pingora's pattern of allocation.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// `EX_CONFIG` of sysexits(3): a faulty configuration does not get better by trying again.
const CONFIGURATION_FAULT: u8 = 78;

fn main() -> ExitCode {
    match fngate::cli::main() {
        Ok(fngate::cli::Outcome::Done) => ExitCode::SUCCESS,
        Ok(fngate::cli::Outcome::No) => ExitCode::FAILURE,
        Ok(fngate::cli::Outcome::ConfigurationFault) => ExitCode::from(CONFIGURATION_FAULT),
        Ok(fngate::cli::Outcome::OfAnother(status)) => ExitCode::from(status),
        Err(error) => {
            fngate::cli::tell(&format!("fngate: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}
