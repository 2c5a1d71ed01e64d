//! Asking a running server on its operator's port.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use serde_json::Value;

use crate::project::ProjectFile;

/// The longest line of the server's answer.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Which server is asked.
#[derive(Args)]
pub(crate) struct Operator {
    /// The project whose server is asked: a folder with a halny.toml, or the file itself
    #[arg(long, short, default_value = ".", global = true)]
    project: PathBuf,

    /// The operator's address of the server, instead of the project file's
    #[arg(long, global = true)]
    admin_address: Option<String>,
}

/// A server that can be asked.
pub(crate) struct Server {
    address: String,
    client: Client,
}

impl Operator {
    /// The server.
    pub(crate) fn server(&self) -> anyhow::Result<Server> {
        let address = match &self.admin_address {
            Some(address) => address.clone(),
            None => ProjectFile::read(&self.project)?.check()?.project.server.admin_address,
        };
        let client = Client::builder().connect_timeout(Duration::from_secs(5)).build()?;
        Ok(Server { address, client })
    }
}

impl Server {
    /// A GET of a path.
    pub(crate) async fn get(&self, path: &[&str]) -> anyhow::Result<Response> {
        self.answered(self.client.get(self.url(path)?)).await
    }

    /// A POST of JSON to a path.
    pub(crate) async fn post(&self, path: &[&str], body: &Value) -> anyhow::Result<Response> {
        self.answered(self.client.post(self.url(path)?).json(body)).await
    }

    /// What is answered to a request, in JSON.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let mut request = self.client.request(method, self.url(path)?).query(query);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.answered(request).await?.json().await.context("the server's answer cannot be read")
    }

    fn url(&self, path: &[&str]) -> anyhow::Result<Url> {
        let address = &self.address;
        let mut url = Url::parse(&format!("http://{address}/"))
            .with_context(|| format!("{address:?} is no address; write host:port"))?;
        url.path_segments_mut().map_err(|()| anyhow::anyhow!("{address:?} is no address"))?.clear().extend(path);
        Ok(url)
    }

    async fn answered(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let address = &self.address;
        let answer = request.send().await;
        let answer = answer.with_context(|| format!("no server answers at {address}; start it with `halny serve`"))?;
        if !answer.status().is_success() {
            let refusal: Value = answer.json().await.unwrap_or_default();
            bail!("{}", refusal["error"]["message"].as_str().unwrap_or("the server refused without saying why"));
        }
        Ok(answer)
    }
}

/// Tells each line of an answer, and gives its last.
pub(crate) async fn last_line(mut answer: Response, mut told: impl FnMut(&Value)) -> anyhow::Result<Value> {
    let (mut rest, mut last) = (Vec::new(), Value::Null);
    while let Some(piece) = answer.chunk().await? {
        rest.extend_from_slice(&piece);
        if rest.len() > LINE_BYTES_MAX {
            bail!("the server's answer is no answer to this");
        }
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            last = serde_json::from_slice(&line).context("the server's answer cannot be read")?;
            told(&last);
        }
    }
    if let Some(error) = last["error"].as_str() {
        bail!("{error}");
    }
    Ok(last)
}
