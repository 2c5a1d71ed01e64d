//! What steps of routes are done with: the models and collections of this process.

use std::sync::Arc;

use halny_generation::request::Event;
use halny_generation::sampling::SamplingOptions;
use halny_generation::text::StopStrings;
use halny_pipeline::{
    Capabilities, Classified, FeaturesRequest, FetchRequest, Fetched, GenerateRequest, Inputs, Point, PromptText,
    SearchRequest, StepError, Tell, Vector, Wrote,
};
use halny_residency::Inference;
use halny_tasks::{Answer, Task};
use halny_types::project::TaskKind;
use halny_types::{Fault, RequestContext};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::features::steps as features;
use crate::openai::conversation::{self, Asked};
use crate::openai::parameters::reason;
use crate::prepare::{self, Admitted};
use crate::qdrant::steps as collections;
use crate::writing::{Ask, Prompt, write_within};
use crate::{ApiError, Shared, classify, rerank};

/// An image is far more work than its file.
const IMAGE_BYTES: usize = 1 << 20;

/// The models and collections of this process.
///
/// What a client's headers say of its request, its deadline and its class, the context has already; the profile
/// they name is none of another model.
pub(super) struct Steps {
    shared: Shared,
}

impl Steps {
    pub(super) fn of(shared: &Shared) -> Steps {
        Steps { shared: shared.clone() }
    }

    fn admit<'a>(&'a self, context: &RequestContext, model: &'a Arc<Inference>) -> Result<Admitted<'a>, ApiError> {
        prepare::admit_within(&self.shared, context, model)
    }

    fn few(&self, count: usize) -> Result<(), ApiError> {
        let most = self.shared.limits.now().max_inputs_per_request;
        if count > most {
            let text = format!("{count} inputs at once; one step may have {most} (max_inputs_per_request)");
            return Err(ApiError::new(Fault::TooLarge, text));
        }
        Ok(())
    }

    async fn vectors(&self, context: &RequestContext, name: &str, texts: Vec<String>) -> Result<Vec<Vector>, ApiError> {
        self.few(texts.len())?;
        let model = prepare::model(&self.shared, name, &[TaskKind::Embed])?;
        let space = Arc::new(collections::space_of(&model)?);
        let make = |task: &Task, text: String| Ok(task.tokenise(&text)?);
        let done = self.admit(context, &model)?.run(texts, String::len, make).await?;
        let vector = |answer| match answer {
            Answer::Vector(numbers) => Ok(Vector { numbers: numbers.into(), space: Some(Arc::clone(&space)) }),
            _ => Err(ApiError::new(Fault::Ours, "the model did not give a vector")),
        };
        done.answers.into_iter().map(vector).collect()
    }

    async fn scores(
        &self,
        context: &RequestContext,
        name: &str,
        query: String,
        documents: Vec<String>,
    ) -> Result<Vec<f32>, ApiError> {
        self.few(documents.len())?;
        let model = prepare::model(&self.shared, name, &[TaskKind::Rerank])?;
        let admitted = self.admit(context, &model)?;
        let query = rerank::query(&self.shared, &model.task, query).await?;
        let make = move |task: &Task, document: String| Ok(task.tokenise_pair(&query, &document)?);
        let done = admitted.run(documents, String::len, make).await?;
        let score = |answer| match answer {
            Answer::Score(score) => Ok(score),
            _ => Err(ApiError::new(Fault::Ours, "the model did not give a score")),
        };
        done.answers.into_iter().map(score).collect()
    }

    async fn labels(&self, context: &RequestContext, name: &str, inputs: Inputs) -> Result<Vec<Classified>, ApiError> {
        let wanted = match &inputs {
            Inputs::Texts(texts) => {
                self.few(texts.len())?;
                TaskKind::ClassifyText
            }
            Inputs::Image(_) => TaskKind::ClassifyImage,
        };
        let model = prepare::model(&self.shared, name, &[wanted])?;
        let admitted = self.admit(context, &model)?;
        let done = match inputs {
            Inputs::Texts(texts) => {
                admitted.run(texts, String::len, |task, text: String| Ok(task.tokenise(&text)?)).await?
            }
            Inputs::Image(image) => {
                let decode = |task: &Task, text: String| Ok(task.decode_image(&classify::decode_base64(&text)?)?);
                admitted.run(vec![image], |_| IMAGE_BYTES, decode).await?
            }
        };
        let labels = model.task.labels();
        let label = |at: usize| labels.get(at).cloned().unwrap_or_else(|| format!("label_{at}"));
        let classified = |answer| match answer {
            Answer::Scores(scores) => Ok(scores.iter().enumerate().map(|(at, score)| (label(at), *score)).collect()),
            _ => Err(ApiError::new(Fault::Ours, "the model did not give scores")),
        };
        done.answers.into_iter().map(classified).collect()
    }

    async fn text(
        &self,
        context: &RequestContext,
        request: GenerateRequest,
        mut tell: Tell,
    ) -> Result<Wrote, ApiError> {
        let (writing, adapter) = prepare::writer(&self.shared, &request.model)?;
        let prompt = match request.prompt {
            PromptText::Text(text) => Prompt::Text(text),
            PromptText::Messages(messages) => {
                let asked = Asked {
                    messages: Some(conversation_of(&messages)?),
                    add_generation_prompt: true,
                    ..Asked::default()
                };
                conversation::prepare(&self.shared, &writing, asked).await?.prompt
            }
        };
        let (of, default) = (request.sampling, SamplingOptions::default());
        let ask = Ask {
            prompts: vec![prompt],
            answers: 1,
            sampling: SamplingOptions {
                temperature: of.temperature.unwrap_or(default.temperature),
                top_p: of.top_p.unwrap_or(default.top_p),
                top_k: of.top_k.unwrap_or(default.top_k),
                seed: of.seed,
                ..default
            },
            max_tokens: request.max_tokens,
            stop: StopStrings::new(request.stop)?,
            include_stop: false,
            ignore_end: false,
            format: None,
            adapter,
        };
        let mut context = context.clone();
        context.deadline = context.deadline.min(context.arrived + writing.deadline(None));
        let mut answers = write_within(&self.shared, context, None, writing, ask).await?;
        let mut text = String::new();
        while let Some((_, event)) = answers.next().await {
            match event? {
                Event::Text { text: more, .. } => {
                    tell(&more);
                    text.push_str(&more);
                }
                Event::Finished(finished) => {
                    return Ok(Wrote {
                        text,
                        finish_reason: reason(&finished.reason),
                        prompt_tokens: finished.usage.prompt_tokens,
                        written_tokens: finished.usage.written_tokens,
                    });
                }
            }
        }
        Err(ApiError::new(Fault::Ours, "the answer broke off before its end"))
    }
}

/// Messages in the form in which clients send them.
fn conversation_of(messages: &[(String, String)]) -> Result<Box<RawValue>, ApiError> {
    let message = |(role, content): &(String, String)| json!({ "role": role, "content": content });
    let messages: Vec<_> = messages.iter().map(message).collect();
    serde_json::value::to_raw_value(&messages)
        .map_err(|_| ApiError::new(Fault::Ours, "the messages have no form in JSON"))
}

/// An error of a request as one of a step of it.
fn of_step(error: ApiError) -> StepError {
    StepError::new(error.fault(), error.message()).with_retry(error.retry_time())
}

impl Capabilities for Steps {
    async fn embed(&self, context: &RequestContext, model: &str, texts: Vec<String>) -> Result<Vec<Vector>, StepError> {
        self.vectors(context, model, texts).await.map_err(of_step)
    }

    async fn search(&self, context: &RequestContext, request: SearchRequest) -> Result<Vec<Point>, StepError> {
        collections::search(&self.shared, context, request).await.map_err(of_step)
    }

    async fn rerank(
        &self,
        context: &RequestContext,
        model: &str,
        query: String,
        documents: Vec<String>,
    ) -> Result<Vec<f32>, StepError> {
        self.scores(context, model, query, documents).await.map_err(of_step)
    }

    async fn classify(
        &self,
        context: &RequestContext,
        model: &str,
        inputs: Inputs,
    ) -> Result<Vec<Classified>, StepError> {
        self.labels(context, model, inputs).await.map_err(of_step)
    }

    async fn generate(
        &self,
        context: &RequestContext,
        request: GenerateRequest,
        tell: Tell,
    ) -> Result<Wrote, StepError> {
        self.text(context, request, tell).await.map_err(of_step)
    }

    async fn fetch(&self, _: &RequestContext, request: FetchRequest) -> Result<Vec<Fetched>, StepError> {
        collections::fetch(&self.shared, request).await.map_err(of_step)
    }

    async fn features(&self, _: &RequestContext, request: FeaturesRequest) -> Result<Map<String, Value>, StepError> {
        features::read(&self.shared, request).await.map_err(of_step)
    }
}
