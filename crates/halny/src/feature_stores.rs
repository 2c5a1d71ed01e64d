//! The features of a project, opened where the project file says that they are kept.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use halny_cpu_pool::CpuPool;
use halny_features::online::{OnlineStore, RedisOnline};
use halny_features::{
    Clock, Definitions, Features, FeaturesError, FlushRule, Folders, Moment, Options, Places, offline_folder,
};
use halny_store::Blobs;
use halny_store::blobs::BlobPlace;
use halny_types::project::Project;
use halny_types::project::features::{FeatureEngine, Features as Settings};
use object_store::ObjectStore;
use object_store::path::Path as Key;
use parking_lot::Mutex;

use crate::engines::{url, variable};

/// Begins every key in a Redis server. Projects that share a server take a database each (`redis://host/1`).
const KEYS: &str = "halny:features:";

/// Whether a project says anything of features.
pub(crate) fn are_declared(project: &Project) -> bool {
    !(project.entities.is_empty() && project.feature_views.is_empty() && project.on_demand_views.is_empty())
}

/// Opens the features, where there are any.
pub(crate) async fn open(project: &Project, folder: &Path, pool: CpuPool) -> anyhow::Result<Option<Features>> {
    if !are_declared(project) {
        return Ok(None);
    }
    let settings = &project.features;
    let clock: Clock = Arc::new(Moment::now);
    let options = Options {
        folder: folder.join(&settings.folder),
        online: online(settings, Arc::clone(&clock)).await?,
        offline: offline(&settings.offline_place(), folder)?,
        prefix: Key::default(),
        places: Arc::new(Sources { files: Folders(folder.to_path_buf()), buckets: Mutex::default() }),
        pool,
        join_memory: settings.join_memory,
        flush: FlushRule::default(),
        clock,
    };
    let place = options.folder.display().to_string();
    let features = Features::open(options, definitions(project)?).await;
    Ok(Some(features.with_context(|| format!("the features in {place} cannot be opened"))?))
}

/// What a checked project says of features.
pub(crate) fn definitions(project: &Project) -> anyhow::Result<Definitions> {
    Definitions::new(project).map_err(|problems| {
        let wrong: Vec<String> = problems.into_iter().map(|it| format!("{}: {}", it.pointer, it.wrong)).collect();
        anyhow::anyhow!("the features of the project are not right\n{}", wrong.join("\n"))
    })
}

/// The online store, where it is not a file of this server.
async fn online(settings: &Settings, clock: Clock) -> anyhow::Result<Option<Arc<dyn OnlineStore>>> {
    if settings.engine == FeatureEngine::Redb {
        return Ok(None);
    }
    let url = url("features", settings.url.as_ref(), settings.url_env.as_ref())?;
    let password = settings.password_env.as_deref().map(|name| variable("features", name)).transpose()?;
    let redis = RedisOnline::connect(&url, password.as_deref(), KEYS, clock).await;
    Ok(Some(Arc::new(redis.context("the online store of features cannot be reached")?)))
}

fn offline(place: &str, folder: &Path) -> anyhow::Result<Arc<dyn ObjectStore>> {
    if place.starts_with("s3://") {
        return Ok(Blobs::open(&BlobPlace::S3(place.to_owned()))?.store());
    }
    if place.contains("://") {
        bail!("features are kept offline in a folder or in s3://bucket/prefix, not in {place:?}");
    }
    let folder = folder.join(place);
    offline_folder(&folder).with_context(|| format!("the offline features in {} cannot be opened", folder.display()))
}

/// Where the files of batch sources are: paths from the project file on, and buckets.
struct Sources {
    files: Folders,
    /// Each bucket once, so that its connections are used again.
    buckets: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

impl Places for Sources {
    fn open(&self, place: &str) -> Result<(Arc<dyn ObjectStore>, Key), FeaturesError> {
        let Some(rest) = place.strip_prefix("s3://") else { return self.files.open(place) };
        let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = Key::parse(path.trim_end_matches('/')).map_err(|_| FeaturesError::Place(place.to_owned()))?;
        let mut buckets = self.buckets.lock();
        if let Some(known) = buckets.get(bucket) {
            return Ok((Arc::clone(known), path));
        }
        let opened = Blobs::open(&BlobPlace::S3(format!("s3://{bucket}")));
        let store = opened.map_err(|_| FeaturesError::Place(place.to_owned()))?.store();
        buckets.insert(bucket.to_owned(), Arc::clone(&store));
        Ok((store, path))
    }
}
