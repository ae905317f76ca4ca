//! `image build`: the bare SSH image.

use super::{
    args,
    failure::{Exit, Failure},
    output,
};
use crate::control::{
    inventory::Engine as Address,
    lab::{Engine, ImageBase},
};

pub(super) async fn image(args: args::Image) -> Result<Exit, Failure> {
    let args::Image::Build { base, rootfs, tag, context, engine } = args;
    let address = engine.map_or(Address::Default, Address::Address);
    let engine = Engine::connect(&address).await?;
    let base = match (base, rootfs) {
        (_, Some(path)) => ImageBase::Rootfs(path),
        (Some(base), None) => ImageBase::Image(base),
        (None, None) => ImageBase::Default,
    };
    let id = engine.build_image(&context, &base, &tag, |line| output::progress(line)).await?;
    output::result(&format!("{tag} {id}\n"))?;
    Ok(Exit::Done)
}
