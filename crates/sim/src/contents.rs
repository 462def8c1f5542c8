//! What a machine holds: pages that are not zero.

use std::collections::BTreeMap;

/// Pages of one device.
pub type Pages = BTreeMap<u8, u64>;

/// Templates of the platform: 1 to this.
pub const TEMPLATES: u128 = 2;

/// How many pages a device has.
pub const PAGES: u8 = 12;

/// Memory and disk of one moment; a page that is missing is all zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Memory.
    pub memory: Pages,
    /// Root disk.
    pub disk: Pages,
}

impl Contents {
    /// What a class begins with.
    pub fn of_class(template: u128) -> Self {
        let page = u64::try_from(template).unwrap_or(u64::MAX);
        Self { memory: Pages::from([(0, page), (1, page)]), disk: Pages::from([(0, page)]) }
    }

    /// After a boot from the same disk.
    pub fn rebooted(&self) -> Self {
        Self { memory: Pages::new(), disk: self.disk.clone() }
    }
}
