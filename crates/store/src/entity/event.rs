//! The outbox: written with the change it tells of, relayed from there, kept as history.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "events")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub seq: i64,
    pub id: Uuid,
    pub team_id: Uuid,
    pub subject_id: Uuid,
    pub name: String,
    pub body: Json,
    pub created_at: DateTimeUtc,
    pub leased_until: Option<DateTimeUtc>,
    pub relayed_at: Option<DateTimeUtc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
