//! The tables over time. A migration that was released is never changed.

mod m0001_tables;
mod m0002_platform;
mod m0003_egress;
mod m0004_saved_templates;
mod m0005_disk_sizes;

use sea_orm_migration::{MigrationTrait, MigratorTrait};

/// All migrations, oldest first.
pub(crate) struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_tables::Migration),
            Box::new(m0002_platform::Migration),
            Box::new(m0003_egress::Migration),
            Box::new(m0004_saved_templates::Migration),
            Box::new(m0005_disk_sizes::Migration),
        ]
    }
}
