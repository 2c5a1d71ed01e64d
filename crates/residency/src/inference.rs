//! A model that runs tensors, and how a request runs on it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use halny_batching::{Claim, Lane, Load, Pending, Refusal};
use halny_engine::{Choice, Signature};
use halny_tasks::{Answer, Item, Task};
use halny_telemetry::{LaneLabels, Metrics};
use halny_types::{ModelName, ModelVersion, RequestContext};

use crate::{ModelRunner, ResidencyError, RunError};

/// The outcomes of a request's items, in order.
pub type Answers = Vec<halny_batching::pending::Outcome<Answer>>;

/// A model that runs tensors: loaded, warm, with a lane for each profile. Holding it keeps it loaded.
pub struct Inference {
    /// The name clients ask for.
    pub name: ModelName,
    /// The digest of its files.
    pub version: ModelVersion,
    /// What it does: from values to items, from tensors to answers.
    pub task: Arc<Task>,
    /// The inputs and outputs of its graph.
    pub signature: Signature,
    /// The ways to run it, in the project file's order, which is the order of preference. Never
    /// empty.
    pub profiles: Vec<LoadedProfile>,
}

/// One way to run a loaded model.
pub struct LoadedProfile {
    /// Its name.
    pub name: String,
    /// The device it runs on, and why that one.
    pub choice: Choice,
    /// The number format of its weights.
    pub precision: &'static str,
    /// The time a request has unless it asks for less.
    pub deadline: Duration,
    /// Memory it takes on its device.
    pub memory_bytes: u64,
    pub(crate) lane: Lane<ModelRunner>,
    pub(crate) labels: LaneLabels,
    pub(crate) metrics: Metrics,
}

impl Drop for LoadedProfile {
    fn drop(&mut self) {
        let answered = self.metrics.answered(&self.labels);
        // The same labels may belong to the lane that replaced this one.
        if self.metrics.forget_lane(&self.labels) {
            self.metrics.models().unloaded(&self.labels);
            let LaneLabels { model, version, profile, .. } = &self.labels;
            tracing::info!(model, version, profile, answered, "no longer loaded");
        }
    }
}

impl Inference {
    /// The time a request has unless it asks for less: that of the profile it names, else the most
    /// patient one's, which may be the one that takes it. A name that no profile has counts as none;
    /// [`Inference::admit`] refuses it.
    #[must_use]
    pub fn deadline(&self, profile: Option<&str>) -> Duration {
        let eligible = self.named(profile).unwrap_or(&self.profiles);
        eligible.iter().map(|profile| profile.deadline).max().unwrap_or_default()
    }

    /// Refuses a request that has no chance, before anyone decodes or tokenises for it.
    ///
    /// # Errors
    /// What the first profile's lane says, when all refuse; or the first that can be hoped for.
    pub fn admit(&self, context: &RequestContext, profile: Option<&str>) -> Result<(), RunError> {
        let claim = claim(context);
        let mut refused: Option<(_, Refusal)> = None;
        for profile in self.named(profile)? {
            match profile.lane.would_refuse(&claim) {
                None => return Ok(()),
                Some(refusal) if refused.as_ref().is_none_or(|(_, before)| says_more(&refusal, before)) => {
                    refused = Some((&profile.lane, refusal));
                }
                Some(_) => {}
            }
        }
        let Some((lane, refusal)) = refused else { return Ok(()) };
        lane.count_refusal(&refusal);
        Err(refusal.into())
    }

    /// Runs the items, each in whatever batch suits it, and gives their outcomes in order.
    ///
    /// Dropping the future tells the lane that nobody waits any more.
    ///
    /// # Errors
    /// [`RunError`] when the request was refused whole or its deadline passed.
    pub async fn run(
        &self,
        context: &RequestContext,
        items: Vec<Item>,
        profile: Option<&str>,
    ) -> Result<Answers, RunError> {
        let pending = self.submit(&claim(context), items, profile)?;
        match context.deadline.to_instant() {
            None => Ok(pending.await),
            Some(deadline) => tokio::time::timeout_at(deadline.into(), pending).await.map_err(|_| RunError::Late),
        }
    }

    /// Submits to the first profile that takes the request: the order in the project file is the
    /// order of preference, and a later profile is where a full one's overflow goes.
    fn submit(&self, claim: &Claim, items: Vec<Item>, profile: Option<&str>) -> Result<Pending<Answer>, RunError> {
        let with_load = |item: Item| {
            let load = load_of(&item);
            (item, load)
        };
        let mut items: Vec<(Item, Load)> = items.into_iter().map(with_load).collect();
        let mut refused: Option<Refusal> = None;
        for profile in self.named(profile)? {
            match profile.lane.submit(claim, items) {
                Ok(pending) => return Ok(pending),
                Err((refusal, back)) => {
                    items = back;
                    if refused.as_ref().is_none_or(|before| says_more(&refusal, before)) {
                        refused = Some(refusal);
                    }
                }
            }
        }
        Err(refused.unwrap_or(Refusal::Closed).into())
    }

    /// The profile of that name, or all of them.
    fn named(&self, wanted: Option<&str>) -> Result<&[LoadedProfile], ResidencyError> {
        crate::model::named(&self.name, &self.profiles, |profile| &profile.name, wanted)
    }
}

/// Of several profiles' refusals the first stands, unless a later one says when to come back: that
/// the request never fits the small profile is no news to who may wait for the large one.
fn says_more(refusal: &Refusal, before: &Refusal) -> bool {
    refusal.is_passing() && !before.is_passing()
}

fn claim(context: &RequestContext) -> Claim {
    Claim {
        tenant: context.tenant.clone(),
        weight: NonZeroU32::MIN,
        priority: context.priority,
        deadline: context.deadline,
    }
}

fn load_of(item: &Item) -> Load {
    Load {
        length: item.length(),
        rows: item.rows(),
        bytes: item.bytes(),
        group: item.group(),
        batchable: item.is_batchable(),
    }
}
