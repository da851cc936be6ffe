//! `doctor`: all that `status` says, and what can only be seen from where the command runs.

use serde::Serialize;

use super::{
    cluster::{CheckView, health_text, print_checks},
    context::Context,
    error::{Error, Result},
    table,
};
use crate::client::{Health, Reached};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DiagnosisView {
    health: &'static str,
    checks: Vec<CheckView>,
    servers: Vec<ReachedView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReachedView {
    server_id: String,
    kind: &'static str,
    address: String,
    /// Round trip; none when nothing came back.
    millis: Option<f64>,
    error: Option<String>,
    software_version: String,
}

impl From<&Reached> for ReachedView {
    fn from(reached: &Reached) -> Self {
        Self {
            server_id: reached.server.server.to_string(),
            kind: reached.kind,
            address: reached.address.clone(),
            millis: reached.round_trip.map(|time| (time.as_secs_f64() * 1e5).round() / 100.0),
            error: reached.error.clone(),
            software_version: reached.server.software_version.clone(),
        }
    }
}

/// Exit code 10 when something wants attention.
pub async fn run(context: &mut Context) -> Result<()> {
    let client = context.client().await?;
    let diagnosis = client.diagnose().await?;
    let health = diagnosis.health();
    let view = DiagnosisView {
        health: health_text(health),
        checks: diagnosis.checks.iter().map(CheckView::from).collect(),
        servers: diagnosis.reached.iter().map(ReachedView::from).collect(),
    };
    if context.output.format().is_json() {
        context.output.done(&view, "", "")?;
    } else {
        let output = &mut context.output;
        print_checks(output, health, &view.checks)?;
        let answered = view.servers.iter().filter(|server| server.millis.is_some()).count();
        output.line(&format!("reached:  {answered} of {} servers from here", view.servers.len()))?;
        for server in &view.servers {
            let how = match server.millis {
                Some(millis) => format!("{millis:.2} ms"),
                None => server.error.clone().unwrap_or_default(),
            };
            let line = format!("  {} {} at {}: {how}", server.kind, server.server_id, server.address);
            output.line(&table::printable(&line))?;
        }
        output.flush()?;
    }
    match health {
        Health::Ok => Ok(()),
        Health::Warn | Health::Error => {
            let count = diagnosis.checks.iter().filter(|check| check.health > Health::Ok).count();
            Err(Error::Unhealthy(format!("{count} things want attention")))
        }
    }
}
