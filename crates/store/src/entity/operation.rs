//! Operations under way; the row goes when the capsule leaves the status it belongs to.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "operations")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub sandbox_id: Uuid,
    pub kind: String,
    /// Of the capsule, when the operation began.
    pub revision: i64,
    pub attempt: i32,
    /// What was asked for beside the kind.
    pub details: Json,
    pub created_at: DateTimeUtc,
    pub deadline: Option<DateTimeUtc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
