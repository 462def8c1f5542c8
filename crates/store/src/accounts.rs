//! Teams, users and API keys.

use crate::entity::{key, membership, team, user};
use crate::error::StoreError;
use crate::open::Store;
use crate::time::{now, whole};
use chrono::{DateTime, Utc};
use model::{KeyId, TeamId, UserId};
use sea_orm::sea_query::Expr;
use sea_orm::{ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder};

/// The account a new installation begins with.
#[derive(Debug, Clone)]
pub struct FirstAccount {
    /// Its user, an administrator.
    pub user: UserId,
    /// Its address.
    pub email: String,
    /// As `argon2` writes it.
    pub password_hash: String,
    /// Its team.
    pub team: TeamId,
    /// The team's name.
    pub team_name: String,
    /// 6 hex, `-`, 6 hex.
    pub team_slug: String,
    /// The team's first key.
    pub key: NewKey,
}

/// An API key to be.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Which.
    pub id: KeyId,
    /// Its name.
    pub name: String,
    /// Lower-case hex SHA-256 of the secret.
    pub hash: String,
    /// What is shown of it.
    pub prefix: String,
    /// Who makes it.
    pub created_by: Option<UserId>,
}

/// An API key as listed; its secret is known to its owner only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Which.
    pub id: KeyId,
    /// Whose.
    pub team: TeamId,
    /// Its name.
    pub name: String,
    /// What is shown of it.
    pub prefix: String,
    /// Who made it.
    pub created_by: Option<UserId>,
    /// When.
    pub created_at: DateTime<Utc>,
    /// When it was last used, to within ten seconds.
    pub last_used: Option<DateTime<Utc>>,
}

/// Whose a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyOwner {
    /// The key.
    pub key: ApiKey,
    /// As stored.
    pub hash: String,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRecord {
    /// Which.
    pub id: UserId,
    /// Its address.
    pub email: String,
    /// Absent = no password.
    pub password_hash: Option<String>,
    /// Administrator of the platform.
    pub is_admin: bool,
    /// Whether it may do anything.
    pub active: bool,
}

impl Store {
    /// Whether nobody has an account yet.
    pub async fn has_no_users(&self) -> Result<bool, StoreError> {
        Ok(user::Entity::find().count(self.db()).await? == 0)
    }

    /// Writes the first account, all of it or nothing.
    pub async fn add_first_account(&self, first: FirstAccount) -> Result<(), StoreError> {
        let transaction = self.begin().await?;
        let now = now();
        let team = team::ActiveModel {
            id: Set(first.team.uuid()),
            name: Set(first.team_name),
            slug: Set(first.team_slug),
            created_at: Set(now),
            deleted_at: Set(None),
        };
        team::Entity::insert(team).exec_without_returning(&transaction).await?;
        let user = user::ActiveModel {
            id: Set(first.user.uuid()),
            email: Set(first.email),
            password_hash: Set(Some(first.password_hash)),
            name: Set("Administrator".to_owned()),
            is_admin: Set(true),
            status: Set("active".to_owned()),
            created_at: Set(now),
            updated_at: Set(now),
            deleted_at: Set(None),
        };
        user::Entity::insert(user).exec_without_returning(&transaction).await?;
        let membership = membership::ActiveModel {
            team_id: Set(first.team.uuid()),
            user_id: Set(first.user.uuid()),
            is_default: Set(true),
            role: Set("owner".to_owned()),
            created_at: Set(now),
        };
        membership::Entity::insert(membership).exec_without_returning(&transaction).await?;
        insert_key(first.team, first.key, &transaction).await?;
        Ok(transaction.commit().await?)
    }

    /// A user by address.
    pub async fn user_by_email(&self, email: &str) -> Result<Option<UserRecord>, StoreError> {
        let row = user::Entity::find()
            .filter(user::Column::Email.eq(email))
            .filter(user::Column::DeletedAt.is_null())
            .one(self.db())
            .await?;
        Ok(row.map(|row| UserRecord {
            id: UserId::from_uuid(row.id),
            email: row.email,
            password_hash: row.password_hash,
            is_admin: row.is_admin,
            active: row.status == "active",
        }))
    }

    /// Adds a key to a team.
    pub async fn add_key(&self, team: TeamId, new: NewKey) -> Result<ApiKey, StoreError> {
        insert_key(team, new, self.db()).await
    }

    /// The key with this hash, unless its team is gone.
    pub async fn key_by_hash(&self, hash: &str) -> Result<Option<KeyOwner>, StoreError> {
        let Some(row) = key::Entity::find().filter(key::Column::KeyHash.eq(hash)).one(self.db()).await? else {
            return Ok(None);
        };
        let team = team::Entity::find_by_id(row.team_id).filter(team::Column::DeletedAt.is_null());
        if team.one(self.db()).await?.is_none() {
            return Ok(None);
        }
        Ok(Some(KeyOwner { hash: row.key_hash.clone(), key: read_key(row) }))
    }

    /// A team's keys, newest first.
    pub async fn keys(&self, team: TeamId) -> Result<Vec<ApiKey>, StoreError> {
        let rows = key::Entity::find()
            .filter(key::Column::TeamId.eq(team.uuid()))
            .order_by_desc(key::Column::CreatedAt)
            .order_by_desc(key::Column::Id)
            .all(self.db())
            .await?;
        Ok(rows.into_iter().map(read_key).collect())
    }

    /// Removes a team's key; false when there is none.
    pub async fn remove_key(&self, team: TeamId, id: KeyId) -> Result<bool, StoreError> {
        let done =
            key::Entity::delete_by_id(id.uuid()).filter(key::Column::TeamId.eq(team.uuid())).exec(self.db()).await?;
        Ok(done.rows_affected == 1)
    }

    /// Notes that a key was used.
    pub async fn touch_key(&self, id: KeyId, at: DateTime<Utc>) -> Result<(), StoreError> {
        key::Entity::update_many()
            .col_expr(key::Column::LastUsed, Expr::value(whole(at)))
            .filter(key::Column::Id.eq(id.uuid()))
            .exec(self.db())
            .await?;
        Ok(())
    }
}

async fn insert_key(team: TeamId, new: NewKey, db: &impl ConnectionTrait) -> Result<ApiKey, StoreError> {
    let row = key::ActiveModel {
        id: Set(new.id.uuid()),
        team_id: Set(team.uuid()),
        name: Set(new.name),
        key_hash: Set(new.hash),
        key_prefix: Set(new.prefix),
        created_by: Set(new.created_by.map(UserId::uuid)),
        created_at: Set(now()),
        last_used: Set(None),
    };
    Ok(read_key(key::Entity::insert(row).exec_with_returning(db).await?))
}

fn read_key(row: key::Model) -> ApiKey {
    ApiKey {
        id: KeyId::from_uuid(row.id),
        team: TeamId::from_uuid(row.team_id),
        name: row.name,
        prefix: row.key_prefix,
        created_by: row.created_by.map(UserId::from_uuid),
        created_at: row.created_at,
        last_used: row.last_used,
    }
}
