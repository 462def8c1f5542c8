//! How large the disk of a template is.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::integer;

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

const COLUMN: &str = "disk_size_mb";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // All there were until then.
        let column = integer(COLUMN).default(5_120).take();
        manager.alter_table(Table::alter().table("templates").add_column(column).take()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.alter_table(Table::alter().table("templates").drop_column(COLUMN).take()).await
    }
}
