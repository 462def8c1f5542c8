//! `wrenn template …`: capsules kept to make others of.

use crate::capsule::{age, connect};
use crate::cli::{Global, SaveArgs, TemplateCommand};
use crate::failure::Outcome;
use crate::output::{self, Output};
use chrono::{DateTime, Utc};
use client::Client;
use model::rest::{SaveTemplate, Template, TemplateKind};
use serde::Serialize;

/// An object rather than a bare array, so that it can grow.
#[derive(Debug, Serialize)]
struct List {
    /// Newest first.
    templates: Vec<Template>,
}

/// Runs the command.
pub async fn run(global: &Global, command: TemplateCommand) -> Outcome {
    let out = Output { json: global.json };
    let client = connect(global)?;
    match command {
        TemplateCommand::Create(args) => create(&client, args, out).await,
        TemplateCommand::List => list(&client, out).await,
        TemplateCommand::Rm { names } => {
            for name in &names {
                client.delete_template(name).await?;
            }
            Ok(out.result(&names, |names| names.join("\n"))?)
        }
    }
}

async fn create(client: &Client, args: SaveArgs, out: Output) -> Outcome {
    let wish = SaveTemplate { sandbox_id: args.from, name: Some(args.name), memory: Some(!args.disk_only) };
    let template = client.save_template(&wish, args.overwrite).await?;
    Ok(out.result(&template, |template| template.name.clone())?)
}

async fn list(client: &Client, out: Output) -> Outcome {
    let list = List { templates: client.templates().await? };
    let now = Utc::now();
    Ok(out.result(&list, |list| {
        let rows = list.templates.iter().map(|template| row(template, now));
        output::table(["NAME", "HAS", "VCPUS", "MEMORY", "ON DISK", "OWNER", "AGE"], rows)
    })?)
}

fn row(template: &Template, now: DateTime<Utc>) -> [String; 7] {
    let has = match template.kind {
        TemplateKind::Base => "disk",
        TemplateKind::Snapshot => "disk, memory",
    };
    let size = match template.size_bytes {
        0 => "-".to_owned(),
        bytes => format!("{} MiB", bytes.div_ceil(1 << 20)),
    };
    [
        template.name.clone(),
        has.to_owned(),
        template.vcpus.to_string(),
        format!("{} MiB", template.memory_mb),
        size,
        if template.platform { "platform" } else { "team" }.to_owned(),
        age(now - template.created_at),
    ]
}
