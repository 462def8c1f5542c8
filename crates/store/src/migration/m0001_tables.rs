//! The first tables.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, binary, boolean, integer, json_binary, pk_auto, string, string_null, timestamp_with_time_zone,
    timestamp_with_time_zone_null, uuid, uuid_null,
};

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

/// In an order in which each refers to earlier ones only.
fn tables() -> Vec<TableCreateStatement> {
    vec![teams(), users(), users_teams(), team_api_keys(), hosts(), templates(), sandboxes(), operations(), events()]
}

const INDEXES: [(&str, &str, &[&str]); 8] = [
    ("users_teams_user", "users_teams", &["user_id"]),
    ("team_api_keys_team", "team_api_keys", &["team_id"]),
    ("sandboxes_team", "sandboxes", &["team_id", "created_at"]),
    ("sandboxes_host_status", "sandboxes", &["host_id", "status"]),
    ("sandboxes_status", "sandboxes", &["status"]),
    ("events_subject", "events", &["subject_id", "seq"]),
    ("events_waiting", "events", &["relayed_at", "seq"]),
    ("hosts_token", "hosts", &["token_hash"]),
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in tables() {
            manager.create_table(table).await?;
        }
        for (name, table, columns) in INDEXES {
            let mut index = Index::create();
            index.name(name).table(table);
            for column in columns {
                index.col(*column);
            }
            manager.create_index(index).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in [
            "events",
            "operations",
            "sandboxes",
            "templates",
            "hosts",
            "team_api_keys",
            "users_teams",
            "users",
            "teams",
        ] {
            manager.drop_table(Table::drop().table(table).to_owned()).await?;
        }
        Ok(())
    }
}

fn id() -> ColumnDef {
    uuid("id").primary_key().take()
}

fn reference(column: &'static str, table: &'static str, on_delete: ForeignKeyAction) -> ForeignKeyCreateStatement {
    ForeignKey::create().from_col(column).to(table, "id").on_delete(on_delete).take()
}

fn teams() -> TableCreateStatement {
    Table::create()
        .table("teams")
        .col(id())
        .col(string("name"))
        .col(string("slug").unique_key())
        .col(timestamp_with_time_zone("created_at"))
        .col(timestamp_with_time_zone_null("deleted_at"))
        .take()
}

fn users() -> TableCreateStatement {
    Table::create()
        .table("users")
        .col(id())
        .col(string("email").unique_key())
        .col(string_null("password_hash"))
        .col(string("name"))
        .col(boolean("is_admin"))
        .col(string("status"))
        .col(timestamp_with_time_zone("created_at"))
        .col(timestamp_with_time_zone("updated_at"))
        .col(timestamp_with_time_zone_null("deleted_at"))
        .take()
}

fn users_teams() -> TableCreateStatement {
    Table::create()
        .table("users_teams")
        .col(uuid("team_id"))
        .col(uuid("user_id"))
        .col(boolean("is_default"))
        .col(string("role"))
        .col(timestamp_with_time_zone("created_at"))
        .primary_key(Index::create().col("team_id").col("user_id"))
        .foreign_key(&mut reference("team_id", "teams", ForeignKeyAction::Restrict).from_tbl("users_teams").take())
        .foreign_key(&mut reference("user_id", "users", ForeignKeyAction::Cascade).from_tbl("users_teams").take())
        .take()
}

fn team_api_keys() -> TableCreateStatement {
    Table::create()
        .table("team_api_keys")
        .col(id())
        .col(uuid("team_id"))
        .col(string("name"))
        .col(string("key_hash").unique_key())
        .col(string("key_prefix"))
        .col(uuid_null("created_by"))
        .col(timestamp_with_time_zone("created_at"))
        .col(timestamp_with_time_zone_null("last_used"))
        .foreign_key(&mut reference("team_id", "teams", ForeignKeyAction::Restrict).from_tbl("team_api_keys").take())
        .foreign_key(&mut reference("created_by", "users", ForeignKeyAction::SetNull).from_tbl("team_api_keys").take())
        .take()
}

fn hosts() -> TableCreateStatement {
    Table::create()
        .table("hosts")
        .col(id())
        .col(string("status"))
        .col(integer("cpu_cores"))
        .col(big_integer("memory_mb"))
        .col(big_integer("disk_mb"))
        .col(string("isolation"))
        .col(string("arch"))
        .col(string("token_hash"))
        .col(timestamp_with_time_zone_null("last_seen_at"))
        .col(timestamp_with_time_zone("created_at"))
        .take()
}

fn templates() -> TableCreateStatement {
    Table::create()
        .table("templates")
        .col(id())
        .col(uuid("team_id"))
        .col(string("name"))
        .col(string("type"))
        .col(integer("vcpus"))
        .col(integer("memory_mb"))
        .col(big_integer("size_bytes"))
        .col(string("default_user"))
        .col(json_binary("default_env"))
        .col(timestamp_with_time_zone("created_at"))
        .index(Index::create().name("templates_team_name").unique().col("team_id").col("name"))
        .foreign_key(&mut reference("team_id", "teams", ForeignKeyAction::Restrict).from_tbl("templates").take())
        .take()
}

fn sandboxes() -> TableCreateStatement {
    Table::create()
        .table("sandboxes")
        .col(id())
        .col(uuid("team_id"))
        .col(uuid("host_id"))
        .col(string("template"))
        .col(uuid("template_id"))
        .col(string("status"))
        .col(big_integer("revision"))
        .col(string_null("reason"))
        .col(integer("vcpus"))
        .col(integer("memory_mb"))
        .col(integer("disk_size_mb"))
        .col(json_binary("lifetime"))
        .col(string("default_user"))
        .col(string("default_workdir"))
        .col(binary("envs"))
        .col(boolean("offline"))
        .col(binary("access_token"))
        .col(json_binary("metadata"))
        .col(json_binary("versions"))
        .col(string("isolation"))
        .col(timestamp_with_time_zone("created_at"))
        .col(timestamp_with_time_zone("status_changed_at"))
        .col(timestamp_with_time_zone_null("started_at"))
        .col(timestamp_with_time_zone_null("last_active_at"))
        .foreign_key(&mut reference("team_id", "teams", ForeignKeyAction::Restrict).from_tbl("sandboxes").take())
        .take()
}

fn operations() -> TableCreateStatement {
    Table::create()
        .table("operations")
        .col(id())
        .col(uuid("sandbox_id").unique_key())
        .col(string("kind"))
        .col(big_integer("revision"))
        .col(integer("attempt"))
        .col(json_binary("details"))
        .col(timestamp_with_time_zone("created_at"))
        .col(timestamp_with_time_zone_null("deadline"))
        .foreign_key(&mut reference("sandbox_id", "sandboxes", ForeignKeyAction::Cascade).from_tbl("operations").take())
        .take()
}

fn events() -> TableCreateStatement {
    Table::create()
        .table("events")
        .col(pk_auto("seq").big_integer())
        .col(uuid("id").unique_key())
        .col(uuid("team_id"))
        .col(uuid("subject_id"))
        .col(string("name"))
        .col(json_binary("body"))
        .col(timestamp_with_time_zone("created_at"))
        .col(timestamp_with_time_zone_null("leased_until"))
        .col(timestamp_with_time_zone_null("relayed_at"))
        .take()
}
