//! The ways in which a notice leaves.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Tokio1Executor, message::header::ContentType,
    transport::smtp::authentication::Credentials,
};
use serde_json::{Value, json};

use super::{
    message::{Message, STANDARD},
    target::{Kind, Target},
};

/// Longest for one delivery.
const LONGEST: Duration = Duration::from_secs(10);

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Sends notices.
#[derive(Debug, Clone)]
pub struct Sender {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Sender {
    /// A sender that trusts what this machine trusts.
    ///
    /// # Errors
    /// When the machine's certificate authorities cannot be read.
    pub fn new() -> std::io::Result<Self> {
        let https = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::aws_lc_rs::default_provider())?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self { http: Client::builder(TokioExecutor::new()).build(https) })
    }

    /// Sends one notice; it is delivered when the other end says so. An alert counts until some time.
    ///
    /// # Errors
    /// Why it was not.
    pub async fn send(
        &self,
        target: &Target,
        message: &Message,
        until_us: i64,
        now_us: i64,
    ) -> Result<(), Error> {
        let text = || message.fill(target.template.as_deref().unwrap_or(STANDARD));
        match target.kind {
            Kind::Smtp => in_time(mail(target, message)).await,
            Kind::Slack => self.post(target, &target.url, json!({ "text": text() })).await,
            Kind::Alertmanager => {
                let goes_on = target.tells(message.became) || message.flapping;
                self.alert(target, &message.to_alerts(goes_on, until_us, now_us)).await
            }
            Kind::Webhook => {
                let mut body = message.to_json();
                body["text"] = json!(text());
                self.post(target, &target.url, body).await
            }
        }
    }

    /// Tells Alertmanager of alerts.
    ///
    /// # Errors
    /// Why it did not take them.
    pub async fn alert(&self, target: &Target, alerts: &[Value]) -> Result<(), Error> {
        let url = format!("{}/api/v2/alerts", target.url.trim_end_matches('/'));
        self.post(target, &url, json!(alerts)).await
    }

    async fn post(&self, target: &Target, url: &str, body: Value) -> Result<(), Error> {
        in_time(self.post_whenever(target, url, body)).await
    }

    async fn post_whenever(&self, target: &Target, url: &str, body: Value) -> Result<(), Error> {
        let mut request = Request::post(url).header(header::CONTENT_TYPE, "application/json");
        if let Some(file) = &target.token_file {
            let token = tokio::fs::read_to_string(file).await;
            let token = token.map_err(|e| format!("{}: {e}", file.display()))?;
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim()));
        }
        let request = request.body(Full::new(Bytes::from(body.to_string())))?;
        let status = self.http.request(request).await?.status();
        match status.is_success() {
            true => Ok(()),
            false => Err(format!("it answers with {status}").into()),
        }
    }
}

async fn in_time(sending: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    tokio::time::timeout(LONGEST, sending).await.map_err(|_| "no answer in time")?
}

async fn mail(target: &Target, message: &Message) -> Result<(), Error> {
    let text = message.fill(target.template.as_deref().unwrap_or(STANDARD));
    let from = target.from.as_deref().ok_or("the target has no `from`")?;
    let status = crate::health::problems::word(message.became).to_uppercase();
    let subject: String = format!("{status} {}: {}", message.what(), message.summary)
        .chars()
        .filter(|c| !c.is_control())
        .take(150)
        .collect();
    let mut mail = lettre::Message::builder().from(from.parse()?).subject(subject);
    for to in &target.to {
        mail = mail.to(to.parse()?);
    }
    let mail = mail.header(ContentType::TEXT_PLAIN).body(text)?;
    let mut transport =
        AsyncSmtpTransport::<Tokio1Executor>::from_url(&target.url)?.timeout(Some(LONGEST));
    if let (Some(username), Some(file)) = (&target.username, &target.password_file) {
        let password = tokio::fs::read_to_string(file).await;
        let password = password.map_err(|e| format!("{}: {e}", file.display()))?;
        let password = password.trim_end().to_owned();
        transport = transport.credentials(Credentials::new(username.clone(), password));
    }
    transport.build().send(mail).await?;
    Ok(())
}
