//! Lists of tensors that cross Burn's dispatch, with places that may be empty.

use burn::backend::{Backend, ExtensionType, tensor::FloatTensor};

/// Places in a list: more than the operands of the widest operator.
pub(crate) const SLOTS: usize = 12;

/// A place in a list of tensors.
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub(crate) enum Slot<B: Backend> {
    /// The tensor in this place.
    Given(FloatTensor<B>),
    /// No tensor is in this place.
    Empty,
}

macro_rules! slots {
    ($($slot:ident)*) => {
        /// A list of up to [`SLOTS`] tensors; the derive knows fields, not vectors.
        #[derive(ExtensionType)]
        #[extension_type(fusion: cfg(feature = "fusion"))]
        pub(crate) struct Tensors<B: Backend> {
            $(#[extension_type] pub(crate) $slot: Slot<B>,)*
        }

        impl<B: Backend> Tensors<B> {
            /// Places that the list does not reach are empty.
            pub(crate) fn new(list: impl IntoIterator<Item = Option<FloatTensor<B>>>) -> Self {
                let mut list = list.into_iter();
                let mut next = || list.next().flatten().map_or(Slot::Empty, Slot::Given);
                Self { $($slot: next(),)* }
            }

            /// All places in order.
            pub(crate) fn into_array(self) -> [Option<FloatTensor<B>>; SLOTS] {
                let Self { $($slot,)* } = self;
                [$($slot,)*].map(|slot| match slot {
                    Slot::Given(tensor) => Some(tensor),
                    Slot::Empty => None,
                })
            }
        }

        #[cfg(feature = "fusion")]
        impl TensorsMetadata {
            /// As [`Tensors::new`], of what is known of tensors before they are computed.
            pub(crate) fn new(list: Vec<Option<burn::backend::fusion::custom::TensorSpec>>) -> Self {
                let mut list = list.into_iter();
                let mut next = || list.next().flatten().map_or(SlotMetadata::Empty, SlotMetadata::Given);
                Self { $($slot: next(),)* }
            }

            /// All places in order.
            pub(crate) fn as_array(&self) -> [Option<&burn::backend::fusion::custom::TensorSpec>; SLOTS] {
                [$(&self.$slot,)*].map(|slot| match slot {
                    SlotMetadata::Given(spec) => Some(spec),
                    SlotMetadata::Empty => None,
                })
            }
        }
    };
}

slots!(p0 p1 p2 p3 p4 p5 p6 p7 p8 p9 p10 p11);
