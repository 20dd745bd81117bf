//! What a gateway holds of the machine, as the machine sees it.

use super::gateway::Gateway;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Footprint {
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    pub(crate) kibibytes: usize,
}

impl Footprint {
    pub(crate) fn of(gateway: &Gateway) -> Self {
        let proc = format!("/proc/{}", gateway.pid());
        let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
        let number = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        Footprint {
            descriptors: std::fs::read_dir(format!("{proc}/fd")).unwrap().count(),
            threads: number("Threads:"),
            kibibytes: number("VmRSS:"),
        }
    }
}
