//! The tables: the catalogue, brought up to date step by step, and one table for each space.

use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, Connection, Row};

use super::error::told;
use crate::{CollectionConfig, Distance, Precision, Tier, VectorConfig, VectorsError};
use halny_payload::FieldKind;

/// What brings the catalogue from one version to the next. A step that was released never changes.
const STEPS: [&str; 1] = ["
    CREATE TABLE halny_vectors.collections (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text COLLATE \"C\" NOT NULL UNIQUE,
        active bigint NOT NULL,
        model text
    );
    CREATE TABLE halny_vectors.aliases (
        alias text COLLATE \"C\" PRIMARY KEY,
        collection bigint NOT NULL REFERENCES halny_vectors.collections ON DELETE CASCADE
    );
    CREATE INDEX ON halny_vectors.aliases (collection);
    CREATE TABLE halny_vectors.spaces (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        collection bigint NOT NULL REFERENCES halny_vectors.collections ON DELETE CASCADE,
        config text NOT NULL
    );
    CREATE INDEX ON halny_vectors.spaces (collection);
    CREATE SEQUENCE halny_vectors.writes;
"];

/// Held by who changes the catalogue: \"halny\" in ASCII.
const CATALOG_LOCK: i64 = 0x68_616c_6e79;

/// pgvector's limits: dimensions of a `vector`, of an index of such, of an index of `halfvec`.
const VECTOR_DIMENSIONS_MAX: usize = 16_000;
const VECTOR_INDEX_DIMENSIONS_MAX: usize = 2_000;
const HALFVEC_INDEX_DIMENSIONS_MAX: usize = 4_000;
const M_MAX: usize = 100;
const EF_CONSTRUCT_MAX: usize = 1_000;

/// What every new connection is told: where pgvector's types are, that a commit is on disk when it is answered, and
/// that no statement runs for ever.
pub(super) async fn settle(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT set_config('search_path', coalesce(
                    (SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                     WHERE e.extname = 'vector'), 'public'), false),
                set_config('synchronous_commit',
                    CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                    ELSE current_setting('synchronous_commit') END, false),
                set_config('statement_timeout',
                    CASE current_setting('statement_timeout') WHEN '0' THEN '120s'
                    ELSE current_setting('statement_timeout') END, false)",
    )
    .execute(&mut *connection)
    .await?;
    let there = sqlx::query("SELECT to_regtype('vector') IS NOT NULL").fetch_one(&mut *connection).await?;
    if there.try_get(0)? {
        // Its driver asks once for each connection what this type is, and loses a statement that is not kept
        // prepared while it does: so it asks now.
        let vector = super::wire::Vector(vec![0.0]);
        sqlx::query("SELECT $1::vector, $2::vector[]").bind(&vector).bind([&vector]).fetch_one(connection).await?;
    }
    Ok(())
}

/// Makes the schema, or brings it up to date. Several servers may start at once.
pub(super) async fn migrate(pool: &PgPool) -> Result<(), VectorsError> {
    let mut connection = pool.acquire().await.map_err(told)?;
    steps(&mut connection).await?;
    check_extension(&mut connection).await?;
    let fsync: String = scalar(&mut connection, "SELECT current_setting('fsync')").await?;
    if fsync == "off" {
        tracing::warn!("the PostgreSQL server has `fsync = off`: what it confirms may be lost in a power failure");
    }
    // pgvector may have come after this connection was told where it is.
    connection.close().await.map_err(told)
}

async fn steps(connection: &mut PgConnection) -> Result<(), VectorsError> {
    let mut transaction = connection.begin().await.map_err(told)?;
    lock(&mut transaction).await?;
    let there: bool = scalar(&mut transaction, "SELECT to_regclass('halny_vectors.schema') IS NOT NULL").await?;
    let version: i32 = match there {
        true => scalar(&mut transaction, "SELECT version FROM halny_vectors.schema").await?,
        false => 0,
    };
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    let known = STEPS.len();
    if version > known {
        return Err(VectorsError::Config(format!(
            "the database's collections are of version {version}, made by a newer Halny, and this one knows {known}; \
             run that one"
        )));
    }
    if version == known {
        return Ok(());
    }
    if !there {
        run(&mut transaction, "CREATE SCHEMA IF NOT EXISTS halny_vectors".to_owned()).await?;
        run(&mut transaction, "CREATE TABLE halny_vectors.schema (version int NOT NULL)".to_owned()).await?;
        run(&mut transaction, "INSERT INTO halny_vectors.schema VALUES (0)".to_owned()).await?;
        let extension: bool =
            scalar(&mut transaction, "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'vector')").await?;
        let available = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector')";
        if !extension && !scalar::<bool>(&mut transaction, available).await? {
            return Err(VectorsError::Config(
                "the PostgreSQL server has no pgvector; install it there, version 0.8 or later".to_owned(),
            ));
        }
        if !extension {
            sqlx::raw_sql("CREATE EXTENSION vector").execute(&mut *transaction).await.map_err(|error| {
                tracing::warn!(%error, "pgvector cannot be made available");
                VectorsError::Config(
                    "pgvector is not enabled in the database, and its user may not do it; have an administrator run \
                     CREATE EXTENSION vector"
                        .to_owned(),
                )
            })?;
        }
    }
    for step in STEPS.iter().skip(version) {
        sqlx::raw_sql(*step).execute(&mut *transaction).await.map_err(told)?;
    }
    run(&mut transaction, format!("UPDATE halny_vectors.schema SET version = {known}")).await?;
    transaction.commit().await.map_err(told)
}

/// Walks that go on until enough points pass a filter came with pgvector 0.8.
async fn check_extension(connection: &mut PgConnection) -> Result<(), VectorsError> {
    let select = "SELECT coalesce((SELECT extversion FROM pg_extension WHERE extname = 'vector'), 'none')";
    let version: String = scalar(connection, select).await?;
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let parts = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if parts < (0, 8) {
        return Err(VectorsError::Config(format!(
            "the database has pgvector {version}, and 0.8 or later is needed; run ALTER EXTENSION vector UPDATE"
        )));
    }
    Ok(())
}

/// Has this transaction change the catalogue alone.
pub(super) async fn lock(connection: &mut PgConnection) -> Result<(), VectorsError> {
    run(connection, format!("SELECT pg_advisory_xact_lock({CATALOG_LOCK})")).await
}

/// Runs SQL that is made of fixed pieces and numbers.
pub(super) async fn run(connection: &mut PgConnection, sql: String) -> Result<(), VectorsError> {
    sqlx::query(AssertSqlSafe(sql)).persistent(false).execute(connection).await.map_err(told)?;
    Ok(())
}

async fn scalar<T>(connection: &mut PgConnection, sql: &'static str) -> Result<T, VectorsError>
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    let row = sqlx::query(sql).persistent(false).fetch_one(connection).await.map_err(told)?;
    row.try_get(0).map_err(told)
}

/// The table of a space.
pub(super) fn table(space: i64) -> String {
    format!("halny_vectors.space_{space}")
}

/// How a vector is indexed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Index {
    /// In 16 bits, not in 32.
    pub(super) half: bool,
    m: usize,
    ef_construct: usize,
}

impl Index {
    /// The index of a vector, if it gets one.
    pub(super) fn of(config: &VectorConfig, collection: &CollectionConfig) -> Option<Index> {
        let Tier::Fast { m, ef_construct, precision } = config.tier else { return None };
        // As in Qdrant: no index at all.
        if collection.segmenting.index_from_points == usize::MAX || config.dimensions > HALFVEC_INDEX_DIMENSIONS_MAX {
            return None;
        }
        // Vectors of length 1 are within what 16 bits hold; others need not be.
        let small = precision != Precision::F32 && config.distance == Distance::Cosine;
        let half = small || config.dimensions > VECTOR_INDEX_DIMENSIONS_MAX;
        // pgvector asks for twice as many candidates as neighbours.
        Some(Index { half, m, ef_construct: ef_construct.max(2 * m) })
    }
}

/// pgvector's operator for a distance: less is nearer. Vectors for cosines have length 1, so that
/// their dot product is the cosine; and zeros have one, which pgvector's own cosine would leave out.
pub(super) fn operator(distance: Distance) -> &'static str {
    match distance {
        Distance::Cosine | Distance::Dot => "<#>",
        Distance::Euclid => "<->",
    }
}

/// The column of a vector, or a value, as its index has it.
pub(super) fn indexed(value: &str, index: &Index, dimensions: usize) -> String {
    if index.half { format!("({value}::halfvec({dimensions}))") } else { value.to_owned() }
}

/// Refuses what pgvector cannot keep.
pub(super) fn check(config: &CollectionConfig) -> Result<(), VectorsError> {
    config.check()?;
    for (name, vector) in &config.vectors {
        let refused = |what: &str, is: usize, most: usize| {
            let text = format!("vector {name:?}: {what} is {is}, and pgvector allows at most {most}");
            Err(VectorsError::Config(text))
        };
        let Tier::Fast { m, ef_construct, .. } = vector.tier else {
            return Err(VectorsError::Unsupported("product quantisation in PostgreSQL".to_owned()));
        };
        if vector.dimensions > VECTOR_DIMENSIONS_MAX {
            return refused("its size", vector.dimensions, VECTOR_DIMENSIONS_MAX);
        }
        if m > M_MAX {
            return refused("`m`", m, M_MAX);
        }
        if ef_construct > EF_CONSTRUCT_MAX {
            return refused("`ef_construct`", ef_construct, EF_CONSTRUCT_MAX);
        }
        if vector.dimensions > HALFVEC_INDEX_DIMENSIONS_MAX {
            tracing::warn!(
                dimensions = vector.dimensions,
                "pgvector indexes at most {HALFVEC_INDEX_DIMENSIONS_MAX} dimensions: every search of this vector compares all"
            );
        }
    }
    Ok(())
}

/// Whether an index of the whole payload answers for a field.
pub(super) fn is_contained(kind: &FieldKind) -> bool {
    matches!(kind, FieldKind::Keyword | FieldKind::Integer | FieldKind::Bool | FieldKind::Uuid)
}

fn has_contained(config: &CollectionConfig) -> bool {
    config.fields.values().any(is_contained)
}

/// Makes the table of a space and its indexes.
pub(super) async fn create(
    connection: &mut PgConnection,
    space: i64,
    config: &CollectionConfig,
) -> Result<(), VectorsError> {
    let vectors = config.vectors.values().enumerate();
    let columns: String =
        vectors.map(|(column, vector)| format!(", v{column} vector({})", vector.dimensions)).collect();
    let table = table(space);
    run(connection, format!("CREATE TABLE {table} (id bytea PRIMARY KEY, payload jsonb NOT NULL{columns})")).await?;
    // Vectors lie beside the row as they are: they hardly compress.
    for column in 0..config.vectors.len() {
        run(connection, format!("ALTER TABLE {table} ALTER COLUMN v{column} SET STORAGE EXTERNAL")).await?;
    }
    change(
        connection,
        space,
        &CollectionConfig { segmenting: config.segmenting, ..CollectionConfig::default() },
        config,
    )
    .await
}

/// Makes the indexes that `new` has and `old` has not, and drops those that it has no more.
pub(super) async fn change(
    connection: &mut PgConnection,
    space: i64,
    old: &CollectionConfig,
    new: &CollectionConfig,
) -> Result<(), VectorsError> {
    let table = table(space);
    // An index of many points takes the time that it takes.
    run(connection, "SELECT set_config('statement_timeout', '0', true)".to_owned()).await?;
    for (column, (name, vector)) in new.vectors.iter().enumerate() {
        let before = old.vectors.get(name).and_then(|vector| Index::of(vector, old));
        let after = Index::of(vector, new);
        if before == after {
            continue;
        }
        if before.is_some() {
            run(connection, format!("DROP INDEX {}", index_name(space, column))).await?;
        }
        if let Some(index) = after {
            let (kind, operators) = match (index.half, vector.distance) {
                (true, Distance::Euclid) => ("halfvec", "l2"),
                (true, _) => ("halfvec", "ip"),
                (false, Distance::Euclid) => ("vector", "l2"),
                (false, _) => ("vector", "ip"),
            };
            let on = indexed(&format!("v{column}"), &index, vector.dimensions);
            let Index { m, ef_construct, .. } = index;
            let sql = format!(
                "CREATE INDEX space_{space}_v{column} ON {table} USING hnsw ({on} {kind}_{operators}_ops) \
                 WITH (m = {m}, ef_construction = {ef_construct})"
            );
            run(connection, sql).await?;
        }
    }
    match (has_contained(old), has_contained(new)) {
        (false, true) => {
            let sql = format!("CREATE INDEX space_{space}_payload ON {table} USING gin (payload jsonb_path_ops)");
            run(connection, sql).await
        }
        (true, false) => run(connection, format!("DROP INDEX halny_vectors.space_{space}_payload")).await,
        _ => Ok(()),
    }
}

/// The index of a vector's column.
pub(super) fn index_name(space: i64, column: usize) -> String {
    format!("halny_vectors.space_{space}_v{column}")
}
