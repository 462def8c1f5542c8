//! The two rulesets: the host's one table per instance, and the table inside each namespace, which goes with it. The rules of
//! neither ever change; those inside ask [sets] that hold the slot's policy.
//!
//! Both are put in force as a whole in one transaction (`nft -f` is atomic), so that there is no moment without rules.

use nftables::batch::Batch;
use nftables::expr::{
    CT, CTDir, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix, RT, RTKey, SetItem, TcpOption,
};
use nftables::schema::{Chain, NfListObject, Nftables, Rule, Set, SetFlag, SetType, SetTypeValue, Table};
use nftables::stmt::{CTCount, JumpTarget, Mangle, Match, Operator, Reject, RejectType, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook, RejectCode};

use crate::address::{Cidr, GATEWAY_ADDRESS, GUEST_ADDRESS, METADATA_ADDRESS, TAP, UPLINK};
use crate::instance::{ANY_VETH, InstanceId};
use crate::limits;
use crate::policy::{NEVER, PRIVATE, Policy};
use crate::sets;

/// Name of the table inside namespaces.
pub(crate) const INSIDE: &str = "wrenn";

/// Before the chains of other tables: theirs may still drop, but none accepts what we refuse and stops there.
const EARLY: i32 = -10;
/// The usual priority of source translation.
const SOURCE_NAT: i32 = 100;

/// The host's table: guests neither reach the host nor each other, and leave under the host's address.
pub(crate) fn host(instance: &InstanceId, range: Cidr) -> Nftables<'static> {
    let veths = instance.veths();
    let mut table = Builder::replace(instance.table());

    table.base_chain("input", NfChainType::Filter, NfHook::Input, EARLY, NfChainPolicy::Accept);
    table.rule("input", vec![from(&veths), DROP]);

    table.base_chain("forward", NfChainType::Filter, NfHook::Forward, EARLY, NfChainPolicy::Accept);
    table.rule("forward", vec![from(&veths), to(ANY_VETH), DROP]);
    table.rule("forward", vec![from(&veths), ipv6(), DROP]);
    table.rule("forward", vec![from(&veths), unlike(ip("saddr"), block(range)), DROP]);
    table.rule("forward", vec![from(&veths), like(ip("daddr"), blocks(&NEVER)), DROP]);
    for direction in [from(&veths), to(&veths)] {
        table.rule("forward", vec![direction, syn(), clamp_segment_size()]);
    }
    table.rule("forward", vec![from(&veths), ACCEPT]);
    table.rule("forward", vec![to(&veths), answers(), ACCEPT]);
    table.rule("forward", vec![to(&veths), DROP]);

    table.base_chain("postrouting", NfChainType::NAT, NfHook::Postrouting, SOURCE_NAT, NfChainPolicy::Accept);
    table.rule("postrouting", vec![like(ip("saddr"), block(range)), not_to(ANY_VETH), Statement::Masquerade(None)]);
    table.finish()
}

/// Removes the host's table. An error of `nft` when there is none is avoided by adding it first.
pub(crate) fn without_host(instance: &InstanceId) -> Nftables<'static> {
    let mut batch = Batch::new();
    batch.add(table(&instance.table()));
    batch.delete(table(&instance.table()));
    batch.to_nftables()
}

/// The table inside a namespace. Every packet is judged by where its flow leads, those that come back too, so a new
/// policy also cuts the flows the former one allowed, in both directions. Processes inside the namespace, a VMM that was broken out of
/// among them, reach nothing but the guest.
pub(crate) fn inside(policy: &Policy) -> Nftables<'static> {
    let mut table = Builder::replace(INSIDE.to_owned());
    for set in sets::of(policy) {
        table.set(set.name, &set.blocks);
    }
    // A chain has to be there before a rule goes to it.
    refuse(&mut table);

    table.base_chain("input", NfChainType::Filter, NfHook::Input, 0, NfChainPolicy::Drop);
    for (destination, accepted) in [
        (GATEWAY_ADDRESS, vec![answers(), port("udp", 53), port("tcp", 53), ping()]),
        (METADATA_ADDRESS, vec![port("tcp", 80)]),
    ] {
        let guest = [from(TAP), like(ip("saddr"), address(GUEST_ADDRESS)), like(ip("daddr"), address(destination))];
        for statement in accepted {
            table.rule("input", [guest.as_slice(), &[statement, ACCEPT]].concat());
        }
        table.rule("input", [guest.as_slice(), &[goto("refuse")]].concat());
    }

    table.base_chain("output", NfChainType::Filter, NfHook::Output, 0, NfChainPolicy::Drop);
    // While the agent is away nobody serves names and metadata. A guest that is not told so asks again, and is answered then.
    let unreachable = [("type", "destination-unreachable"), ("code", "port-unreachable")];
    table.rule(
        "output",
        [&[to(TAP)], unreachable.map(|(field, is)| like(payload("icmp", field), text(is))).as_slice(), &[DROP]]
            .concat(),
    );
    for (server, port) in [(GATEWAY_ADDRESS, 53), (METADATA_ADDRESS, 80)] {
        let from_it = [like(ip("saddr"), address(server)), like(payload("tcp", "sport"), Expression::Number(port))];
        table.rule("output", [&[to(TAP)], from_it.as_slice(), &unaccepted(), &[DROP]].concat());
    }
    table.rule("output", vec![to(TAP), like(ip("daddr"), address(GUEST_ADDRESS)), ACCEPT]);

    table.chain("egress");
    table.rule("egress", vec![new(), over(limits::MAX_FLOWS), goto("refuse")]);
    judge(&mut table, "egress", &ip("daddr"), goto("refuse"));
    table.chain("answers");
    judge(&mut table, "answers", &original_destination(), DROP);

    table.base_chain("forward", NfChainType::Filter, NfHook::Forward, 0, NfChainPolicy::Drop);
    table.rule("forward", vec![from(UPLINK), to(TAP), answers(), goto("answers")]);
    table.rule("forward", vec![from(TAP), to(UPLINK), like(ip("saddr"), address(GUEST_ADDRESS)), goto("egress")]);

    table.base_chain("postrouting", NfChainType::NAT, NfHook::Postrouting, SOURCE_NAT, NfChainPolicy::Accept);
    table.rule("postrouting", vec![to(UPLINK), Statement::Masquerade(None)]);
    table.finish()
}

/// What the policy says about a destination.
fn judge(table: &mut Builder, chain: &'static str, destination: &Expression<'static>, no: Statement<'static>) {
    let leads = |to: Expression<'static>| like(destination.clone(), to);
    table.rule(chain, vec![leads(blocks(&NEVER)), no.clone()]);
    table.rule(chain, vec![leads(text("@private")), ACCEPT]);
    table.rule(chain, vec![leads(blocks(&PRIVATE)), no.clone()]);
    table.rule(chain, vec![leads(text("@allow")), ACCEPT]);
    table.rule(chain, vec![leads(text("@deny")), no.clone()]);
    table.rule(chain, vec![leads(text("@internet")), ACCEPT]);
    table.rule(chain, vec![no]);
}

/// Refusing at once instead of silence: a guest's library should not sit out its timeout.
fn refuse(table: &mut Builder) {
    table.chain("refuse");
    let tcp = like(meta(MetaKey::L4proto), text("tcp"));
    table.rule("refuse", vec![tcp, Statement::Reject(Some(Reject::new(Some(RejectType::TCPReset), None)))]);
    let prohibited = Reject::new(Some(RejectType::ICMPX), Some(RejectCode::AdminProhibited));
    table.rule("refuse", vec![Statement::Reject(Some(prohibited))]);
}

/// A table under construction.
struct Builder {
    table: String,
    batch: Batch<'static>,
}

impl Builder {
    /// Adding comes before deleting, which fails for a table that does not exist.
    fn replace(name: String) -> Self {
        let mut batch = Batch::new();
        batch.add(table(&name));
        batch.delete(table(&name));
        batch.add(table(&name));
        Self { table: name, batch }
    }

    fn chain(&mut self, name: &'static str) {
        self.batch.add(NfListObject::Chain(self.named(name)));
    }

    fn base_chain(
        &mut self,
        name: &'static str,
        kind: NfChainType,
        hook: NfHook,
        priority: i32,
        policy: NfChainPolicy,
    ) {
        let chain = Chain {
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(priority),
            policy: Some(policy),
            ..self.named(name)
        };
        self.batch.add(NfListObject::Chain(chain));
    }

    fn named(&self, name: &'static str) -> Chain<'static> {
        Chain { family: NfFamily::INet, table: self.table.clone().into(), name: name.into(), ..Chain::default() }
    }

    fn set(&mut self, name: &'static str, elements: &[Cidr]) {
        let elements: Vec<_> = elements.iter().copied().map(block).collect();
        let set = Set {
            family: NfFamily::INet,
            table: self.table.clone().into(),
            name: name.into(),
            set_type: SetTypeValue::Single(SetType::Ipv4Addr),
            flags: Some([SetFlag::Interval].into()),
            elem: (!elements.is_empty()).then(|| elements.into()),
            ..Set::default()
        };
        self.batch.add(NfListObject::Set(Box::new(set)));
    }

    fn rule(&mut self, chain: &'static str, statements: Vec<Statement<'static>>) {
        let table = self.table.clone().into();
        let rule =
            Rule { family: NfFamily::INet, table, chain: chain.into(), expr: statements.into(), ..Rule::default() };
        self.batch.add(NfListObject::Rule(rule));
    }

    fn finish(self) -> Nftables<'static> {
        self.batch.to_nftables()
    }
}

const ACCEPT: Statement<'static> = Statement::Accept(None);
const DROP: Statement<'static> = Statement::Drop(None);

fn table(name: &str) -> NfListObject<'static> {
    NfListObject::Table(Table { family: NfFamily::INet, name: name.to_owned().into(), handle: None })
}

fn goto(chain: &'static str) -> Statement<'static> {
    Statement::Goto(JumpTarget { target: chain.into() })
}

fn compare(left: Expression<'static>, op: Operator, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op })
}

fn like(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    compare(left, Operator::EQ, right)
}

fn unlike(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    compare(left, Operator::NEQ, right)
}

fn from(interface: &str) -> Statement<'static> {
    like(meta(MetaKey::Iifname), text(interface))
}

fn to(interface: &str) -> Statement<'static> {
    like(meta(MetaKey::Oifname), text(interface))
}

fn not_to(interface: &str) -> Statement<'static> {
    unlike(meta(MetaKey::Oifname), text(interface))
}

fn ipv6() -> Statement<'static> {
    like(meta(MetaKey::Nfproto), text("ipv6"))
}

/// Packets of flows begun from the other side, and errors about them.
fn answers() -> Statement<'static> {
    state(Expression::List(vec![text("established"), text("related")]))
}

fn port(protocol: &'static str, number: u32) -> Statement<'static> {
    like(payload(protocol, "dport"), Expression::Number(number))
}

fn ping() -> Statement<'static> {
    like(payload("icmp", "type"), text("echo-request"))
}

/// Packets of flows nobody has answered yet.
fn new() -> Statement<'static> {
    state(text("new"))
}

fn state(states: Expression<'static>) -> Statement<'static> {
    let state = NamedExpression::CT(CT { key: "state".into(), family: None, dir: None });
    compare(Expression::Named(state), Operator::IN, states)
}

fn over(flows: u32) -> Statement<'static> {
    Statement::CTCount(CTCount { val: Expression::Number(flows), inv: Some(true) })
}

fn syn() -> Statement<'static> {
    compare(payload("tcp", "flags"), Operator::IN, text("syn"))
}

/// The answer to a SYN where nobody listens: other resets continue a sequence.
fn unaccepted() -> [Statement<'static>; 2] {
    [
        compare(payload("tcp", "flags"), Operator::IN, text("rst")),
        like(payload("tcp", "sequence"), Expression::Number(0)),
    ]
}

/// Uplinks with a smaller MTU (tunnels, some clouds) whose ICMP errors get lost on the way would stall large answers.
fn clamp_segment_size() -> Statement<'static> {
    let key = NamedExpression::TcpOption(TcpOption { name: "maxseg".into(), field: Some("size".into()) });
    let value = NamedExpression::RT(RT { key: RTKey::MTU, family: None });
    Statement::Mangle(Mangle { key: Expression::Named(key), value: Expression::Named(value) })
}

fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn payload(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn ip(field: &'static str) -> Expression<'static> {
    payload("ip", field)
}

/// Where the first packet of a packet's flow went. An error about a flow comes from anywhere; what it is about counts.
fn original_destination() -> Expression<'static> {
    Expression::Named(NamedExpression::CT(CT { key: "ip daddr".into(), family: None, dir: Some(CTDir::Original) }))
}

fn text(value: &str) -> Expression<'static> {
    Expression::String(value.to_owned().into())
}

fn address(address: std::net::Ipv4Addr) -> Expression<'static> {
    Expression::String(address.to_string().into())
}

fn block(cidr: Cidr) -> Expression<'static> {
    let prefix = Prefix { addr: Box::new(address(cidr.network())), len: u32::from(cidr.prefix()) };
    Expression::Named(NamedExpression::Prefix(prefix))
}

fn blocks(cidrs: &[Cidr]) -> Expression<'static> {
    Expression::Named(NamedExpression::Set(cidrs.iter().copied().map(block).map(SetItem::Element).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One command per line, as `nft -j` takes them.
    fn lines(ruleset: &Nftables<'_>) -> String {
        ruleset.objects.iter().map(|command| serde_json::to_string(command).unwrap() + "\n").collect()
    }

    #[test]
    fn host_rules_are_these() {
        insta::assert_snapshot!(lines(&host(&"abc".parse().unwrap(), "240.1.0.0/17".parse().unwrap())));
    }

    #[test]
    fn rules_of_the_default_policy_are_these() {
        insta::assert_snapshot!(lines(&inside(&Policy::default())));
    }

    #[test]
    fn a_policy_changes_sets_only() {
        let list = |blocks: &[&str]| blocks.iter().map(|block| block.parse().unwrap()).collect();
        let policy = Policy {
            allow_internet: false,
            allow: list(&["10.1.0.0/16", "10.1.2.0/24", "1.1.1.1"]),
            deny: list(&["8.0.0.0/8"]),
        };
        let default = lines(&inside(&Policy::default()));
        let changed: Vec<_> =
            lines(&inside(&policy)).lines().filter(|line| !default.contains(line)).map(str::to_owned).collect();
        insta::assert_snapshot!(changed.join("\n"));
    }
}
