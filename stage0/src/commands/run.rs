//! `pod run`, `prepare` and `run-prepared`: from the command line to stage1, in this process.

use crate::arguments::PodArguments;
use crate::arguments::commands::RunPrepared;
use crate::arguments::globals::Globals;
use crate::cgroup::{hierarchy, make, plan};
use crate::failure::Failure;
use crate::life::pods::{PodDir, Pods, new_uuid};
use crate::life::{find, gc, lease, names};
use crate::more;
use crate::pod_json::devices;
use crate::stage1::{self, Given, Located, Meaning};
use crate::{facts, images, network, output, pod_json, users};
use anyhow::{Context, Result};
use contract::dir::{HOST, POD, Phase, State};
use contract::host::{Host, StageImage};
use contract::name::{AppName, PodUuid};
use contract::pod::{IdRange, Network, Pod, Stdio, Trust};
use contract::stage1::RootForm;
use image_tools::digest::Digest;
use image_tools::obtain::{Images, Insecure, Obtained};
use image_tools::reference::NameReference;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::IsTerminal;
use std::os::fd::OwnedFd;

/// `pod run`: runs the pod in this process; returns only if it could not be started.
pub(crate) fn run(globals: &Globals, arguments: &PodArguments) -> Result<Infallible> {
    let uuid = new_uuid()?;
    save_uuid(arguments, &uuid)?;
    // The store stays open until there is a pod.json that names its layers: so long nothing in it is collected.
    let (store, stage1) = store_and_stage1(globals, arguments)?;
    let (mut pod, asked) = resolve(globals, &store, arguments, &stage1, uuid)?;
    let cgroups = cgroups(&mut pod, &stage1)?;
    say_what_is_given_up(&stage1, &pod);
    let network = network::open(&arguments.pod.net)?;
    let pods = Pods::open(&globals.dir)?;
    let mut dir = create(&pods, &mut pod, asked, &stage1, &cgroups)?;
    start(&pods, &mut dir, &stage1, &cgroups, Outside { users: pod.private_users, network })
}

/// `pod prepare`: everything but the cgroups, which depend on who runs the pod, and a namespace of somebody else, which may not
/// be there yet.
pub(crate) fn prepare(globals: &Globals, arguments: &PodArguments) -> Result<()> {
    let uuid = new_uuid()?;
    save_uuid(arguments, &uuid)?;
    // The store stays open until there is a pod.json that names its layers: so long nothing in it is collected.
    let (store, stage1) = store_and_stage1(globals, arguments)?;
    let (mut pod, asked) = resolve(globals, &store, arguments, &stage1, uuid)?;
    // What this host cannot enforce is refused now, not when somebody waits for the pod.
    cgroups(&mut pod, &stage1)?;
    say_what_is_given_up(&stage1, &pod);
    let pods = Pods::open(&globals.dir)?;
    let mut dir = create(&pods, &mut pod, asked, &stage1, &plan::Plan::default())?;
    pods.advance(&mut dir, Phase::Prepared)?;
    output::print(&format!("{}\n", pod.uuid))
}

/// `pod run-prepared`
pub(crate) fn run_prepared(globals: &Globals, arguments: &RunPrepared) -> Result<Infallible> {
    let pods = Pods::open(&globals.dir)?;
    let mut dir = find::find(&pods, &arguments.pod)?;
    let not_prepared = |uuid: &PodUuid, word: &str| Failure::new(format!("pod `{uuid}` is not prepared, it is {word}"));
    // The lock first: of two that run the same pod, one finds it taken.
    if dir.phase != Phase::Prepared || !dir.lock_unless_held()? || !gc::is_there(&pods, &dir)? {
        return Err(not_prepared(&dir.uuid, dir.state()?.word()).into());
    }
    let mut pod: Pod = dir.read(POD)?.ok_or_else(|| not_prepared(&dir.uuid, State::Garbage.word()))?;
    let mut host: Host = dir.read(HOST)?.unwrap_or_default();
    refuse_other_network(&pod, arguments.net.as_deref())?;
    let network = network::open(arguments.net.as_deref().unwrap_or_default())?;
    if pod.apps.iter().any(|app| app.stdio == Stdio::Tty) && !std::io::stdin().is_terminal() {
        return Err(Failure::new("the pod was prepared for a terminal, and the standard input is none").into());
    }
    let stage1 = stage1::recorded(&host)?;
    stage1.refuse_unknown_needs(&pod)?;
    verify_again(globals, &pod, &host)?;
    let prepared = pod.clone();
    let cgroups = cgroups(&mut pod, &stage1)?;
    if pod != prepared {
        // Whoever runs the pod can make less cgroups than whoever prepared it.
        dir.replace(POD, &json(&pod)?)?;
    }
    // An upgrade may have changed it meanwhile.
    stage1.record(&mut host);
    make::record(&cgroups, &pod.uuid, &mut host);
    dir.replace(HOST, &json(&host)?)?;
    say_what_is_given_up(&stage1, &pod);
    start(&pods, &mut dir, &stage1, &cgroups, Outside { users: pod.private_users, network })
}

/// Plans the pod's cgroups. Where none can keep the apps from devices, they lose a capability instead, which is said. A stage1
/// that wants block images is a machine, which confines its apps itself.
fn cgroups(pod: &mut Pod, stage1: &Located) -> Result<plan::Plan> {
    let hierarchies = hierarchy::detect()?;
    let form = stage1.stage1.root;
    let obstacle = hierarchies.no_devices.as_ref().filter(|_| form == RootForm::Tree);
    let taken = obstacle.map(|obstacle| devices::without_cgroup(pod, obstacle)).transpose()?.unwrap_or_default();
    let plan = plan::plan(pod, &hierarchies, form)?;
    if let Some(obstacle) = obstacle.filter(|_| !taken.is_empty()) {
        output::notice(&devices::notice(&taken, obstacle));
    }
    Ok(plan)
}

/// A stage1 that is no image is looked for first: without it, not even a store is made.
fn store_and_stage1(globals: &Globals, arguments: &PodArguments) -> Result<(Images, Located)> {
    let image = match Meaning::of(&arguments.pod.stage1) {
        Meaning::BuiltIn(name) => {
            let stage1 = stage1::built_in(name)?;
            return Ok((images::open(globals)?, stage1));
        }
        Meaning::Path(path) => {
            let stage1 = stage1::at(path)?;
            return Ok((images::open(globals)?, stage1));
        }
        Meaning::Image(image) => image,
    };
    let store = images::open(globals)?;
    let obtained = images::obtain(&store, image, words(globals, arguments));
    let stage1 = obtained.and_then(|obtained| stage1::of_image(&obtained)).context("stage1")?;
    Ok((store, stage1))
}

fn words(globals: &Globals, arguments: &PodArguments) -> images::Words {
    let (pull, downgrade) = (arguments.pod.pull_policy, arguments.pod.allow_downgrade);
    images::Words { pull, downgrade, insecure: globals.insecure() }
}

/// By app the name under which its image was asked for.
type AskedNames = BTreeMap<AppName, String>;

/// Everything that can be refused is refused here, before there is a directory.
fn resolve(
    globals: &Globals,
    store: &Images,
    arguments: &PodArguments,
    stage1: &Located,
    uuid: PodUuid,
) -> Result<(Pod, AskedNames)> {
    let insecure = globals.insecure();
    let words = words(globals, arguments);
    let (mut apps, mut asked) = (Vec::with_capacity(arguments.apps.len()), Vec::new());
    for app in &arguments.apps {
        let obtained = images::obtain(store, &app.image, words)?;
        asked.push(obtained.asked.as_ref().map(ToString::to_string));
        apps.push(images::app_image(obtained));
    }
    let mut facts = facts::gather(arguments)?;
    // The range is leased when the pod has a directory; until then any will do to see what the pod needs.
    facts.id_range = arguments.pod.private_users.then_some(IdRange { first: 0, count: 0 });
    facts.stage1.clone_from(&stage1.stage1.features);
    let mut pod = pod_json::build(uuid, arguments, apps, insecure, &facts, globals.debug)?;
    if insecure.isolation {
        stage1.waive(&mut pod);
    }
    stage1.refuse_unknown_needs(&pod)?;
    if stage1.stage1.root == RootForm::Block {
        images::add_blocks(store, &mut pod)?;
    }
    let asked = pod.apps.iter().zip(asked).filter_map(|(app, asked)| Some((app.name.clone(), asked?))).collect();
    Ok((pod, asked))
}

/// After all that can be refused: an error is not to follow it.
fn say_what_is_given_up(stage1: &Located, pod: &Pod) {
    say_what_is_waived(stage1, pod);
    for line in more::notices(pod, stage1.stage1.root == RootForm::Tree) {
        output::notice(&format!("pod: {line}"));
    }
}

fn say_what_is_waived(stage1: &Located, pod: &Pod) {
    if !pod.waived.is_empty() {
        let (stage1, waived) = (stage1.shown(), stage1::names(&pod.waived));
        output::notice(&format!("pod: the pod runs without what {stage1} does not give: {waived}"));
    }
}

/// Makes the pod directory with all that is written down, locked. What the host gives is named before it is taken.
fn create(pods: &Pods, pod: &mut Pod, asked: AskedNames, stage1: &Located, cgroups: &plan::Plan) -> Result<PodDir> {
    let dir = pods.create(pod.uuid.clone())?;
    let mut host = Host { stage1_image: stage1.image.clone(), asked, ..Host::default() };
    stage1.record(&mut host);
    let written = write_down(pods, &dir, pod, host, cgroups);
    if written.is_err() {
        // The caller sees the data directory as before. Should this not succeed, gc meets an aborted pod.
        let _ = gc::remove(pods, &dir);
    }
    written.map(|()| dir)
}

fn write_down(pods: &Pods, dir: &PodDir, pod: &mut Pod, mut host: Host, cgroups: &plan::Plan) -> Result<()> {
    if let Some(name) = &pod.name {
        names::claim(pods, name, &pod.uuid)?;
    }
    if pod.private_users.is_some() {
        // The lease names its pod, so gc finds it by the pod's death even if host.json never came to be.
        let range = lease::take(pods, &pod.uuid, pod.name.as_ref())?;
        pod.private_users = Some(range);
        host.id_range = Some(range);
    }
    make::record(cgroups, &pod.uuid, &mut host);
    dir.write_new(HOST, &json(&host)?)?;
    dir.write_new(POD, &json(pod)?)
}

/// What the pod's namespaces are made of.
struct Outside {
    /// The range of a user namespace to be made.
    users: Option<IdRange>,
    /// A network namespace that is there.
    network: Option<OwnedFd>,
}

/// Makes what `host.json` names, and becomes stage1.
fn start(
    pods: &Pods,
    dir: &mut PodDir,
    stage1: &Located,
    cgroups: &plan::Plan,
    outside: Outside,
) -> Result<Infallible> {
    make::make(cgroups, &dir.uuid)?;
    let given = Given { users: outside.users.map(users::namespace).transpose()?, network: outside.network };
    pods.advance(dir, Phase::Run)?;
    Err(stage1.become_it(dir.fd(), &given, &dir.uuid))
}

/// A key may have been revoked, or a rule removed, since the pod was prepared.
fn verify_again(globals: &Globals, pod: &Pod, host: &Host) -> Result<()> {
    let store = images::open(globals)?;
    let judge = |id: &str, asked: Option<&String>, trust: &Trust| -> Result<Obtained> {
        let asked = asked.map(|asked| NameReference::parse(asked)).transpose()?;
        let insecure = Insecure { image: *trust == Trust::Insecure, ..Insecure::default() };
        let obtained = images::stored(&store, &Digest::parse(id)?, asked.as_ref(), insecure)?;
        let Trust::Signature { granted, .. } = trust else { return Ok(obtained) };
        let allowed = obtained.acceptance.as_ref().map(|acceptance| acceptance.allowed()).unwrap_or_default();
        match granted.iter().find(|word| !allowed.iter().any(|allowed| allowed.to_string() == **word)) {
            Some(word) => Err(Failure::new(format!("its trust rule does not allow `{word}` any more"))
                .hint("prepare the pod again")
                .into()),
            None => Ok(obtained),
        }
    };
    for app in &pod.apps {
        let obtained = judge(&app.image.id, host.asked.get(&app.name), &app.image.trust)
            .with_context(|| format!("image of app `{}`", app.name))?;
        // The trees were looked at where the store has them now.
        anyhow::ensure!(obtained.image.layers == app.root.layers, "the trees of app `{}` are elsewhere now", app.name);
    }
    if pod.apps.iter().any(|app| app.root.block.is_some()) {
        images::add_blocks(&store, &mut pod.clone())?;
    }
    let stage1 = |image: &StageImage| judge(&image.id, image.asked.as_ref(), &image.trust).map(|_| ());
    host.stage1_image.iter().try_for_each(|image| stage1(image).context("image of the stage1"))
}

fn refuse_other_network(pod: &Pod, net: Option<&str>) -> Result<(), Failure> {
    let prepared = match pod.network {
        Network::None => "none",
        Network::Host => "host",
        Network::Joined => "ns:PATH",
    };
    match net {
        Some(net) if pod.network == Network::Joined && network::path(net).is_some() => Ok(()),
        None if pod.network == Network::Joined => Err(Failure::new("the pod was prepared with `--net=ns:`")
            .hint("`pod run-prepared --net=ns:PATH POD` says which namespace it joins")),
        Some(net) if net != prepared => Err(Failure::new(format!("the pod was prepared with `--net={prepared}`"))
            .hint("prepare it again with another network")),
        _ => Ok(()),
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>> {
    let bytes = serde_json::to_vec(value).context("write JSON")?;
    if bytes.len() as u64 > contract::json::FILE_BYTES_MAX {
        return Err(Failure::new("the pod's description is too long")
            .hint("pass fewer or shorter arguments and variables")
            .into());
    }
    Ok(bytes)
}

/// Before anything else, so that whoever started us can clean up after a kill at any later step.
fn save_uuid(arguments: &PodArguments, uuid: &PodUuid) -> Result<()> {
    let Some(path) = &arguments.pod.uuid_file_save else { return Ok(()) };
    std::fs::write(path, format!("{uuid}\n")).with_context(|| format!("write the UUID to `{}`", path.display()))
}
