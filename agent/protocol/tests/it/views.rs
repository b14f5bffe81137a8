//! A view and its message are the same bytes.

use proptest::prelude::*;
use punnet_protocol::*;

use crate::any;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_desired_view_reads_what_the_message_says(message in any::desired()) {
        let bytes = postcard::to_stdvec(&message).unwrap();
        let view = DesiredView::read(&bytes).unwrap();
        prop_assert_eq!(&view.fleet, &message.fleet);
        prop_assert_eq!(&view.device, &message.device);
        prop_assert_eq!(view.generation, message.generation);
        prop_assert_eq!(view.signed_at_s, message.signed_at_s);
        let (apps, encoded): (Vec<_>, Vec<_>) = view.apps().unzip();
        prop_assert_eq!(apps.as_slice(), message.apps.as_slice());
        for (app, bytes) in apps.iter().zip(encoded) {
            prop_assert_eq!(postcard::to_stdvec(app).unwrap(), bytes);
        }
    }

    #[test]
    fn a_desired_view_reads_exactly_what_the_message_decoder_reads(
        message in any::desired(), cut in any::<prop::sample::Index>(), extra in any::<bool>()
    ) {
        let mut bytes = postcard::to_stdvec(&message).unwrap();
        if extra { bytes.push(0) } else { bytes.truncate(cut.index(bytes.len())) }
        let decoded_by_serde = || matches!(postcard::take_from_bytes::<Desired>(&bytes), Ok((_, [])));
        // serde needs more stack for it than a test thread has.
        let whole = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(64 << 20).spawn_scoped(scope, decoded_by_serde);
            thread.unwrap().join().unwrap()
        });
        prop_assert_eq!(DesiredView::read(&bytes).is_ok(), whole);
    }

    #[test]
    fn a_block_view_reads_what_the_message_says(message in any::answer()) {
        let bytes = postcard::to_stdvec(&message).unwrap();
        match (postcard::from_bytes(&bytes).unwrap(), message) {
            (BlockAnswerView::Data(view), BlockAnswer::Data(block)) => {
                prop_assert_eq!((view.blob, view.offset, view.total_bytes), (block.blob, block.offset, block.total_bytes));
                prop_assert_eq!(view.data, block.data.as_slice());
            }
            (BlockAnswerView::Refused { blob, reason }, BlockAnswer::Refused { blob: b, reason: r }) => {
                prop_assert_eq!((blob, reason), (b, r));
            }
            (view, message) => prop_assert!(false, "{view:?} is not {message:?}"),
        }
    }

    #[test]
    fn a_log_view_is_written_as_the_message(message in any::log_chunk()) {
        let view = LogChunkView {
            session: message.session,
            app: &message.app,
            offset: message.offset,
            seen_at_ms: message.seen_at_ms,
            last: message.last,
            data: &message.data,
        };
        prop_assert_eq!(postcard::to_stdvec(&view).unwrap(), postcard::to_stdvec(&message).unwrap());
    }
}

#[test]
fn a_block_view_keeps_the_bound() {
    let long = vec![0_u8; BLOCK_BYTES_MAX + 1];
    let view = BlockAnswerView::Data(BlockView {
        blob: Digest([0; 32]),
        offset: 0,
        total_bytes: 1,
        data: &long,
    });
    let bytes = postcard::to_stdvec(&view).unwrap();
    assert!(postcard::from_bytes::<BlockAnswerView<'_>>(&bytes).is_err());
}

#[test]
fn a_desired_view_keeps_the_bound_on_apps() {
    let head = (
        "a".parse::<Name>().unwrap(),
        "b".parse::<Name>().unwrap(),
        1_u64,
        2_u64,
        usize::MAX,
    );
    assert!(DesiredView::read(&postcard::to_stdvec(&head).unwrap()).is_err());
}
