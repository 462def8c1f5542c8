//! What a create without a ready VM consists of, as the agent measured it, and what is left of the call around it.

use crate::figure::{Figure, median};
use crate::platform::Platform;
use crate::{Measured, REST, ROUNDS};
use hostlink::{AgentLink, Endpoint};
use model::{CapsuleId, TemplateId, limits};
use proto::hostagent::v1 as wire;
use std::time::{Duration, Instant};

/// Of these the platform has no part: the VMM's program from its start, and the guest from when it runs.
const OTHERS: [&str; 3] = ["vmm", "load", "guest"];
/// What the platform itself may take.
const OURS: Duration = Duration::from_millis(10);

/// Prints the median of every step; together they are the call.
pub async fn measure(platform: &Platform) -> Measured {
    let link = AgentLink::new(Endpoint::Unix(platform.dir.join("run/agent.sock")));
    let mut steps: Vec<(String, Vec<Duration>)> = Vec::new();
    let (mut totals, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let sandbox_id = CapsuleId::random().to_string();
        let request = wire::CreateSandboxRequest {
            sandbox_id: sandbox_id.clone(),
            template_id: TemplateId::MINIMAL.uuid().to_string(),
            vcpus: limits::VCPUS_DEFAULT,
            memory_mb: limits::MEMORY_MB_DEFAULT,
            disk_size_mb: limits::DISK_MB_DEFAULT,
            // Another policy than a slot is prepared with.
            egress: wire::Egress { allow_internet: true, deny: vec!["192.0.2.0/24".to_owned()], ..Default::default() }
                .into(),
            ..Default::default()
        };
        let began = Instant::now();
        let made = link.rpc().create_sandbox(request).await?.into_owned();
        let total = began.elapsed();
        link.rpc().destroy_sandbox(wire::DestroySandboxRequest { sandbox_id, ..Default::default() }).await?;
        let mut taken: Vec<(String, Duration)> =
            made.steps.into_iter().map(|step| (step.name, Duration::from_micros(step.us))).collect();
        let known: Duration = taken.iter().map(|(_, took)| *took).sum();
        taken.push(("call".to_owned(), total.checked_sub(known).ok_or("the steps took longer than the call")?));
        let of_others = taken.iter().filter(|(name, _)| OTHERS.contains(&name.as_str())).map(|(_, took)| *took).sum();
        ours.push(total.saturating_sub(of_others));
        totals.push(total);
        for (index, (name, took)) in taken.into_iter().enumerate() {
            if steps.len() <= index {
                steps.push((name, Vec::new()));
            }
            steps.get_mut(index).ok_or("a step is missing")?.1.push(took);
        }
        tokio::time::sleep(REST).await;
    }
    for (name, taken) in &steps {
        eprintln!("  create: {name:<14} {:>8.1} ms", median(taken).as_secs_f64() * 1e3);
    }
    eprintln!("  create: {:<14} {:>8.1} ms", "all of it", median(&totals).as_secs_f64() * 1e3);
    Ok(vec![Figure::limit("create.ours", median(&ours), OURS)])
}
