//! inspect, history, du: what images are and what they take.

use std::process::ExitCode;

use punnet_images::Image;
use punnet_json::{Value, json};

use super::images::{print_json, store};
use super::{ANY, Given, JSON, Verb, Words};
use crate::error::Result;
use crate::roots::Roots;

/// `punnet inspect IMAGE...`
pub const INSPECT: Verb = Verb {
    name: "inspect",
    summary: "Print all that is known of images, as JSON",
    synopsis: "IMAGE...",
    details: "An array of {references, manifest, platform, created, size_bytes, files, layers_kept, rootfs, manifest_document, config}; the last two are the image's\n\
              own documents (OCI image-spec), rootfs is where its files lie on this device.",
    flags: &[],
    words: Words::Between(1, ANY),
    act: |roots, given| {
        let store = store(roots)?;
        let images = given
            .texts(0)?
            .iter()
            .map(|name| inspected(&store.get(name)?))
            .collect::<Result<Vec<_>, _>>()?;
        println!("{}", punnet_json::to_string_pretty(&images));
        Ok(ExitCode::SUCCESS)
    },
};

/// `punnet history IMAGE`
pub const HISTORY: Verb = Verb {
    name: "history",
    summary: "List the steps an image was built in",
    synopsis: "[--json] IMAGE",
    details: "The newest first. SIZE is that of the step's layer as it is transferred, 0 for a step without one.\n\
              JSON: an array of {created, created_by, comment, layer, size_bytes}.",
    flags: &[JSON],
    words: Words::Between(1, 1),
    act: history,
};

/// `punnet du`
pub const DU: Verb = Verb {
    name: "du",
    summary: "Show what images take on the disk, alone and together",
    synopsis: "[--json]",
    details: "FILES counts each file of an image once, SHARED what other images have too, OWN what the image's removal frees. `punnet prune` frees the garbage.\n\
              JSON: {images: [{manifest, references, files_bytes, shared_bytes, layers_bytes}], total_bytes, garbage_bytes}.",
    flags: &[JSON],
    words: Words::Between(0, 0),
    act: du,
};

fn inspected(image: &Image) -> Result<Value> {
    let config = image.config()?;
    let references: Vec<String> = image.references.iter().map(ToString::to_string).collect();
    Ok(json!({
        "references": references,
        "manifest": image.manifest,
        "platform": config.platform().to_string(),
        "created": config.created,
        "size_bytes": image.summary.size_bytes,
        "files": image.summary.files,
        "layers_kept": image.layout().is_some(),
        "rootfs": image.rootfs(),
        "manifest_document": image.document("manifest.json")?,
        "config": image.document("config.json")?,
    }))
}

fn history(roots: &Roots, given: Given) -> Result<ExitCode> {
    let image = store(roots)?.get(given.text(0)?)?;
    let mut layers = image.manifest_document()?.layers.into_iter();
    let mut steps: Vec<Value> = Vec::new();
    for step in image.config()?.history {
        let layer = if step.empty_layer { None } else { layers.next() };
        steps.push(json!({
            "created": step.created,
            "created_by": step.created_by,
            "comment": step.comment,
            "layer": layer.as_ref().map(|layer| layer.digest),
            "size_bytes": layer.map_or(0, |layer| layer.size),
        }));
    }
    // Not every tool writes a history.
    steps.extend(layers.map(|layer| json!({ "layer": layer.digest, "size_bytes": layer.size })));
    steps.reverse();
    if given.has("json") {
        print_json(&steps);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<20} {:>10} STEP", "CREATED", "KIB");
    for step in &steps {
        let text = |key: &str| step[key].as_str().unwrap_or_default();
        let kib = step["size_bytes"].as_u64().unwrap_or(0).div_ceil(1024);
        println!(
            "{:<20.19} {kib:>10} {} {}",
            text("created"),
            text("created_by"),
            text("comment")
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn du(roots: &Roots, given: Given) -> Result<ExitCode> {
    let usage = store(roots)?.usage()?;
    if given.has("json") {
        print_json(&usage);
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{:<40} {:>10} {:>10} {:>10} {:>10}",
        "NAME", "FILES KIB", "SHARED", "LAYERS", "OWN"
    );
    for image in &usage.images {
        let short = image.manifest.to_string();
        let name = image.references.first().map_or(&short[..19], String::as_str);
        let [files, shared, layers, own] = [
            image.files_bytes,
            image.shared_bytes,
            image.layers_bytes,
            image.own_bytes(),
        ]
        .map(|bytes| bytes.div_ceil(1024));
        println!("{name:<40} {files:>10} {shared:>10} {layers:>10} {own:>10}");
    }
    println!(
        "all: {} KiB, of which garbage: {} KiB",
        usage.total_bytes.div_ceil(1024),
        usage.garbage_bytes.div_ceil(1024)
    );
    Ok(ExitCode::SUCCESS)
}
