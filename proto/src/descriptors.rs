//! The compiled `.proto` files, each by itself: building all of them costs milliseconds and megabytes,
//! and hardly anybody asks for more than one domain.

use prost::Message;

include!(concat!(env!("OUT_DIR"), "/descriptors.rs"));

/// One compiled file, as two parts of one message.
#[derive(Debug)]
pub(crate) struct File {
    shape: &'static [u8],
    comments: &'static [u8],
}

/// A domain and its operations, as far as they are known before its file is read.
#[derive(Debug)]
pub(crate) struct Domain {
    pub(crate) name: &'static str,
    /// What stands before its service.
    pub(crate) comment: &'static str,
    /// In the order of their names.
    pub(crate) operations: &'static [Name],
    pub(crate) file: File,
}

/// What an operation is called.
#[derive(Debug)]
pub(crate) struct Name {
    /// `domain.verb`
    pub(crate) name: &'static str,
    /// Path of its rpc.
    pub(crate) path: &'static str,
}

impl File {
    /// The encoded descriptor.
    pub(crate) fn encoded(&self, comments: bool) -> Vec<u8> {
        [self.shape, if comments { self.comments } else { &[] }].concat()
    }
}

/// An encoded `FileDescriptorSet` of the whole contract, with its comments and custom options.
pub fn set() -> Vec<u8> {
    /// Fields that are messages and fields that are bytes look alike.
    #[derive(Message)]
    struct Set {
        #[prost(bytes = "vec", repeated, tag = "1")]
        file: Vec<Vec<u8>>,
    }
    let own = SHARED.iter().chain(OWN).chain(DOMAINS.iter().map(|d| &d.file));
    let files = std::iter::once(&DESCRIPTOR).chain(own);
    Set { file: files.map(|f| f.encoded(true)).collect() }.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use prost_reflect::prost_types::FileDescriptorProto;

    use super::*;

    #[test]
    fn no_file_has_options_for_which_the_library_would_build_all_of_its_own_types() {
        let files = SHARED.iter().chain(OWN).chain(DOMAINS.iter().map(|d| &d.file));
        let files = files.map(|file| file.encoded(false)).chain([EXTENDED.to_vec()]);
        for file in files {
            let file = FileDescriptorProto::decode(&*file).expect("a file");
            let name = file.name();
            assert!(file.options.is_none(), "{name}");
            assert!(file.service.iter().all(|s| s.options.is_none()), "{name}");
            let nested = file.message_type.iter().flat_map(|m| &m.nested_type);
            for message in file.message_type.iter().chain(nested) {
                assert!(message.oneof_decl.iter().all(|o| o.options.is_none()), "{name}");
                assert!(message.enum_type.iter().all(|e| e.options.is_none()), "{name}");
            }
            for of in &file.enum_type {
                let values = of.value.iter().all(|v| v.options.is_none());
                assert!(of.options.is_none() && values, "{name}");
            }
        }
    }
}
