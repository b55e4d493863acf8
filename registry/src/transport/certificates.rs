//! Certificates beyond the system's: authorities that the caller names, and those of one host with the client's own.
//!
//! The directories have docker's layout, `HOST[:PORT]/{*.crt, *.cert, *.key}` (docker documentation, "Verify repository
//! client with certificates"; containers-certs.d(5)): `.crt` is an authority, `.cert` and `.key` of one name are ours.

use std::io;
use std::path::{Path, PathBuf};

use reqwest::blocking::ClientBuilder;
use reqwest::{Certificate, Identity};

use crate::{Certificates, Error};

/// The directories that are there for a host, by the names that it goes by.
pub(super) fn directories(certificates: &Certificates, hosts: &[String]) -> Vec<PathBuf> {
    let candidates = certificates.directories.iter().flat_map(|root| hosts.iter().map(move |host| root.join(host)));
    candidates.filter(|directory| directory.is_dir()).collect()
}

/// Adds authorities, and the client's certificate if a directory has one.
pub(super) fn add(
    mut builder: ClientBuilder,
    authorities: &[PathBuf],
    directories: &[PathBuf],
) -> Result<ClientBuilder, Error> {
    let mut trusted = Vec::new();
    for path in authorities {
        trusted.extend(bundle(path)?);
    }
    for directory in directories {
        let mut files = list(directory).map_err(|source| Error::CertificateFile { source })?;
        files.sort();
        for path in files {
            let has = |extension| path.extension().is_some_and(|found| found == extension);
            if has("crt") {
                trusted.extend(bundle(&path)?);
            } else if has("cert") {
                builder = builder.identity(identity(&path)?);
            } else if has("key") && !path.with_extension("cert").exists() {
                return Err(wrong(&path, "it has no certificate: a file of the same name that ends with `.cert`"));
            }
        }
    }
    Ok(if trusted.is_empty() { builder } else { builder.tls_certs_merge(trusted) })
}

fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    fs_err::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs_err::read(path).map_err(|source| Error::CertificateFile { source })
}

fn bundle(path: &Path) -> Result<Vec<Certificate>, Error> {
    let found = Certificate::from_pem_bundle(&read(path)?).unwrap_or_default();
    if found.is_empty() { Err(wrong(path, "it has no certificate in PEM form")) } else { Ok(found) }
}

fn identity(path: &Path) -> Result<Identity, Error> {
    let mut pem = read(path)?;
    pem.push(b'\n');
    pem.extend(read(&path.with_extension("key"))?);
    Identity::from_pem(&pem).map_err(|_| wrong(path, "it and its `.key` are not a certificate and a key in PEM form"))
}

fn wrong(path: &Path, problem: &'static str) -> Error {
    Error::Certificate { path: path.to_owned(), problem }
}
