//! Which addresses a capsule may reach. Whether it reaches the others is `offline`.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::json_binary;

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

/// Lists of address blocks.
const COLUMNS: [&str; 2] = ["allow_out", "deny_out"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in COLUMNS {
            let column = json_binary(column).default("[]").take();
            manager.alter_table(Table::alter().table("sandboxes").add_column(column).take()).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in COLUMNS {
            manager.alter_table(Table::alter().table("sandboxes").drop_column(column).take()).await?;
        }
        Ok(())
    }
}
