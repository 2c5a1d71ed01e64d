//! How the verbs ask a running server: over the operator's port.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use reqwest::{Method, Url};
use serde_json::Value;

use crate::project::ProjectFile;

/// Which server is asked.
#[derive(Args)]
pub(crate) struct ServerArgs {
    /// The project whose server is asked: a folder with a halny.toml, or the file itself
    #[arg(long, short, default_value = ".", global = true)]
    project: PathBuf,

    /// The operator's address of the server, instead of the project file's
    #[arg(long, global = true)]
    admin_address: Option<String>,
}

/// A running server, at its operator's port.
pub(crate) struct Server {
    address: String,
    client: reqwest::Client,
}

impl Server {
    pub(crate) fn of(args: &ServerArgs) -> anyhow::Result<Server> {
        let address = match &args.admin_address {
            Some(address) => address.clone(),
            None => ProjectFile::read(&args.project)?.check()?.project.server.admin_address,
        };
        let client = reqwest::Client::builder().connect_timeout(Duration::from_secs(5)).build()?;
        Ok(Server { address, client })
    }

    /// The answer to a request, or what the server says against it. Names in the path are escaped.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let address = &self.address;
        let mut url = Url::parse(&format!("http://{address}/"))
            .with_context(|| format!("{address:?} is no address; write host:port"))?;
        url.path_segments_mut().map_err(|()| anyhow::anyhow!("{address:?} is no address"))?.clear().extend(path);
        let mut request = self.client.request(method, url).query(query);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await;
        let answer = answer.with_context(|| format!("no server answers at {address}; start it with `halny serve`"))?;
        let is_good = answer.status().is_success();
        let body: Value = answer.json().await.unwrap_or_default();
        if !is_good {
            bail!("{}", body["error"]["message"].as_str().unwrap_or("the server refused without saying why"));
        }
        Ok(body)
    }
}
