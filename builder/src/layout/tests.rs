//! Layouts and archives that are not what they should be, and archives of `docker save` as it once wrote them.

use serde_json::json;
use snapshot::digest::sha256;

use super::*;

/// A tar archive of files and links.
fn archive(members: &[(&str, Result<&[u8], &str>)]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut builder = tar::Builder::new(file);
    for (name, member) in members {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        match member {
            Ok(bytes) => {
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, name, *bytes).unwrap();
            }
            Err(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                builder.append_link(&mut header, name, target).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

fn all(mut from: Box<dyn Read + Send>) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn an_old_docker_archive_is_read_as_a_layout() {
    let config = br#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let manifest = json!([{"Config": "c.json", "RepoTags": ["app:1", "r.test/app:2"],
                           "Layers": ["one/layer.tar", "two/layer.tar"]}]);
    let manifest = manifest.to_string();
    let file = archive(&[
        ("one/layer.tar", Ok(b"the layer")),
        // docker once wrote a layer that occurs twice as a link.
        ("two/layer.tar", Err("../one/layer.tar")),
        ("c.json", Ok(config)),
        ("manifest.json", Ok(manifest.as_bytes())),
    ]);
    let layout = Layout::archive(file.path()).unwrap();
    for name in ["app:1", "docker.io/library/app:1", "r.test/app:2"] {
        let found = layout.find(Some(name)).unwrap();
        assert_eq!(found, layout.find(Some(name)).unwrap());
        let document: ImageManifest = serde_json::from_slice(&layout.document(found[0]).unwrap()).unwrap();
        assert_eq!(document.layers().len(), 2);
        assert_eq!(all(layout.open(document.layers()[1].digest()).unwrap()), b"the layer");
        assert_eq!(layout.document(document.config()).unwrap(), config);
    }
    assert_eq!(layout.find(None).unwrap().len(), 1);
    let error = layout.find(Some("app:9")).unwrap_err().to_string();
    assert!(error.ends_with("has no image `app:9`; it has `app:1`, `r.test/app:2`"), "{error}");
}

#[test]
fn links_of_an_archive_stay_in_it() {
    let manifest = json!([{"Config": "c", "Layers": []}]).to_string();
    for target in ["/etc/passwd", "../../etc/passwd", "c", "missing"] {
        let file = archive(&[("c", Err(target)), ("manifest.json", Ok(manifest.as_bytes()))]);
        let error = Layout::archive(file.path()).unwrap_err();
        assert!(
            matches!(&error, LayoutError::Read { source, .. } if source.to_string().contains("no file `")),
            "{error}"
        );
    }
}

#[test]
fn what_is_no_layout_is_an_error() {
    let index = json!({"schemaVersion": 2, "manifests": []}).to_string();
    for (name, bytes) in [("x", &b"x"[..]), ("index.json", b"[]"), ("index.json", b"{"), ("manifest.json", b"{}")] {
        assert!(Layout::archive(archive(&[(name, Ok(bytes))]).path()).is_err(), "{name}");
    }
    let empty = archive(&[("index.json", Ok(index.as_bytes()))]);
    let layout = Layout::archive(empty.path()).unwrap();
    assert!(layout.find(None).is_err() && layout.find(Some("x")).is_err());
    let plain = tempfile::NamedTempFile::new().unwrap();
    fs_err::write(plain.path(), vec![7; 2000]).unwrap();
    assert!(Layout::archive(plain.path()).is_err());
}

#[test]
fn a_document_is_held_against_its_digest() {
    let descriptor = Descriptor::new(oci_spec::image::MediaType::ImageManifest, 2_u64, sha256(b"{}"));
    let index = json!({"schemaVersion": 2, "manifests": [descriptor]}).to_string();
    let name = format!("blobs/sha256/{}", descriptor.digest().digest());
    for (bytes, is_right) in [(&b"{}"[..], true), (b"[]", false), (b"", false)] {
        let file = archive(&[(&name, Ok(bytes)), ("index.json", Ok(index.as_bytes()))]);
        let layout = Layout::archive(file.path()).unwrap();
        assert_eq!(layout.document(layout.find(None).unwrap()[0]).is_ok(), is_right);
    }
}

#[test]
fn an_archive_may_be_compressed() {
    let index = json!({"schemaVersion": 2, "manifests": []}).to_string();
    let plain = archive(&[("index.json", Ok(index.as_bytes()))]);
    let packed = tempfile::NamedTempFile::new().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(packed.as_file(), flate2::Compression::default());
    io::copy(&mut fs_err::File::open(plain.path()).unwrap(), &mut gzip).unwrap();
    gzip.finish().unwrap();
    assert!(Layout::archive(packed.path()).is_ok());
}
