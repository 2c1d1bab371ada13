//! The declaration of an operator's operands; the module's page says what it makes.

/// Inputs and outputs of an operator, and what each of them is held as.
macro_rules! operator {
    (
        $operator:literal, $problem:ty as $p:ident;
        $(#[$about_inputs:meta])* inputs<$($input:ident),+> { $($inputs:tt)* }
        $(#[$about_outputs:meta])* outputs<$($output:ident),+> { $($outputs:tt)* }
    ) => {
        pub(super) const OPERATOR: $crate::shape::Operator = $crate::shape::Operator($operator);

        $crate::operands::operands! {
            $problem as $p; $(#[$about_inputs])* Operands<$($input),+> { $($inputs)* }
        }
        $crate::operands::operands! {
            $problem as $p; $(#[$about_outputs])* Results<$($output),+> { $($outputs)* }
        }

        /// What the operator reads in memory; see [`Operands`].
        pub type Inputs<'a> = $crate::operands::held!(Operands<$($input),+>, $crate::Rows<'a>, &'a [f32]);
        /// Derivatives of the loss by what the operator reads, overwritten. Those of optional operands may be left out.
        pub type Gradients<'a, T = f32> = $crate::operands::held!(Operands<$($input),+>, &'a mut [T], &'a mut [T]);
        /// [`Gradients`] in memory of their own.
        pub type GradientBuffers<T = f32> = $crate::operands::held!(Operands<$($input),+>, Vec<T>, Vec<T>);
        /// What the operator writes; see [`Results`].
        pub type Outputs<'a> = $crate::operands::held!(Results<$($output),+>, &'a mut [f32], &'a mut [f32]);
        /// Derivatives of the loss by what the operator writes; nothing where the loss does not see it.
        pub type Cotangents<'a> =
            $crate::operands::held!(Results<$($output),+>, Option<$crate::Rows<'a>>, Option<&'a [f32]>);

        /// As [`Inputs`], on a device.
        #[cfg(feature = "cube")]
        pub type DeviceInputs =
            $crate::operands::held!(Operands<$($input),+>, $crate::cube::DeviceRows, $crate::cube::DeviceBuffer);
        /// As [`Gradients`], on a device: rows in the type of their operand, values in f32.
        #[cfg(feature = "cube")]
        pub type DeviceGradients =
            $crate::operands::held!(Operands<$($input),+>, $crate::cube::DeviceBuffer, $crate::cube::DeviceBuffer);
        /// As [`Outputs`], on a device.
        #[cfg(feature = "cube")]
        pub type DeviceOutputs =
            $crate::operands::held!(Results<$($output),+>, $crate::cube::DeviceBuffer, $crate::cube::DeviceBuffer);
        /// As [`Cotangents`], on a device.
        #[cfg(feature = "cube")]
        pub type DeviceCotangents = $crate::operands::held!(
            Results<$($output),+>,
            Option<$crate::cube::DeviceRows>,
            Option<$crate::cube::DeviceBuffer>
        );
    };
}
pub(crate) use operator;

/// The type of operands whose rows are held as the first type and whose values, if there are any, as the second.
macro_rules! held {
    ($name:ident<R>, $rows:ty, $values:ty) => { $name<$rows> };
    ($name:ident<R, V>, $rows:ty, $values:ty) => { $name<$rows, $values> };
}
pub(crate) use held;

/// One struct of operands: `<R>` where all have rows, `<R, V>` where some have none.
macro_rules! operands {
    ($problem:ty as $p:ident; $(#[$about:meta])* $name:ident<R> { $($fields:tt)* }) => {
        $crate::operands::operands! {
            @each [R] [rows] (R, S, rows, (usize, usize), |shape| $crate::operands::area(shape));
            $problem as $p; $(#[$about])* $name { $($fields)* }
        }
    };
    ($problem:ty as $p:ident; $(#[$about:meta])* $name:ident<R, V> { $($fields:tt)* }) => {
        $crate::operands::operands! {
            @each [R, V] [rows, values]
            (R, S, rows, (usize, usize), |shape| $crate::operands::area(shape)),
            (V, W, values, usize, |len| len);
            $problem as $p; $(#[$about])* $name { $($fields)* }
        }
    };
    (
        @each $all:tt $functions:tt $(($held:ident, $other:ident, $f:ident, $shape:ty, |$s:ident| $len:expr)),+;
        $problem:ty as $p:ident;
        $(#[$about:meta])*
        $name:ident { $($(#[$doc:meta])* $field:ident: $kind:ident $(<$inner:ident>)? [$($size:expr),+]),+ $(,)? }
    ) => {
        $(#[$about])*
        ///
        /// `R` holds what has a row per token, `V` what has none.
        pub struct $name<$($held),+> {
            $($(#[$doc])* pub $field: $crate::operands::operand!(@type $kind $($inner)?, $all),)+
        }

        impl<$($held),+> $name<$($held),+> {
            /// The same operands, each held otherwise.
            ///
            /// # Errors
            /// The first that a function gives.
            pub fn try_map<$($other,)+ E>(
                self,
                $(mut $f: impl FnMut($crate::operands::Operand, $held) -> Result<$other, E>,)+
            ) -> Result<$name<$($other),+>, E> {
                Ok($name {
                    $($field: $crate::operands::operand!(
                        @map $kind $($inner)?, stringify!($field), self.$field, $functions
                    ),)+
                })
            }

            /// The same operands, each held otherwise.
            pub fn map<$($other),+>(
                self,
                $(mut $f: impl FnMut($crate::operands::Operand, $held) -> $other,)+
            ) -> $name<$($other),+> {
                match self.try_map($(|name, held| Ok::<_, std::convert::Infallible>($f(name, held))),+) {
                    Ok(operands) => operands,
                    Err(never) => match never {},
                }
            }

            /// The same operands, borrowed.
            pub fn as_ref(&self) -> $name<$(&$held),+> {
                $name {
                    $($field: $crate::operands::operand!(@borrow $kind, (&self.$field), self.$field.as_ref()),)+
                }
            }

            /// The same operands, borrowed to be changed.
            pub fn as_mut(&mut self) -> $name<$(&mut $held),+> {
                $name {
                    $($field: $crate::operands::operand!(@borrow $kind, (&mut self.$field), self.$field.as_mut()),)+
                }
            }

            /// The shapes that a problem asks for of operands like these: of those that are given.
            #[allow(unused_variables, reason = "a shape may not depend on the problem")]
            pub(crate) fn extents(&self, $p: &$problem) -> $name<$($shape),+> {
                $name {
                    $($field: $crate::operands::operand!(@extent $kind $($inner)?, self.$field, $($size),+),)+
                }
            }

            /// Compares the operands with the shapes that a problem asks for; what is left out fits.
            pub(crate) fn expect<T, E>(
                &self,
                subject: &$crate::operands::Subject<T>,
                extents: &$name<$($shape),+>,
            ) -> Result<(), E>
            where
                $($held: $crate::operands::Measured<$shape, Types = T, Error = E>,)+
            {
                $($crate::operands::operand!(
                    @expect $kind $($inner)?, stringify!($field), subject, extents.$field, self.$field
                );)+
                Ok(())
            }
        }

        #[allow(dead_code, reason = "not every operator allocates")]
        impl $name<$($shape),+> {
            /// Zeros of these shapes.
            pub(crate) fn zeros<T: Clone + Default>(self) -> $crate::operands::held!($name<$($held),+>, Vec<T>, Vec<T>) {
                self.map($(|_, $s| vec![T::default(); $len]),+)
            }

            /// Buffers of these shapes on a device, not filled.
            #[cfg(feature = "cube")]
            pub(crate) fn empty(
                self,
                client: &$crate::cube::Client,
                types: $crate::operands::ElementTypes,
            ) -> Result<
                $crate::operands::held!($name<$($held),+>, $crate::cube::DeviceBuffer, $crate::cube::DeviceBuffer),
                $crate::cube::Error,
            > {
                self.try_map($(|operand, $s| $crate::cube::DeviceBuffer::empty(client, $len, types.of(operand))),+)
            }
        }

        impl<T> $crate::operands::held!($name<$($held),+>, Vec<T>, Vec<T>) {
            /// All of them, to be written.
            pub fn as_written(&mut self) -> $crate::operands::held!($name<$($held),+>, &mut [T], &mut [T]) {
                self.as_mut().map($(|_, $f| $f.as_mut_slice()),+)
            }
        }

        impl<$($held: Clone),+> Clone for $name<$($held),+> {
            fn clone(&self) -> Self {
                $name { $($field: self.$field.clone(),)+ }
            }
        }

        impl<$($held: Copy),+> Copy for $name<$($held),+> {}

        impl<$($held: std::fmt::Debug),+> std::fmt::Debug for $name<$($held),+> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name))$(.field(stringify!($field), &self.$field))+.finish()
            }
        }

        impl<$($held: PartialEq),+> PartialEq for $name<$($held),+> {
            fn eq(&self, other: &Self) -> bool {
                true $(&& self.$field == other.$field)+
            }
        }
    };
}
pub(crate) use operands;

/// What a kind of operand is in each of the functions of a struct of operands.
macro_rules! operand {
    (@type Values, [$rows:ident, $values:ident]) => { $values };
    (@type Option $inner:ident, $held:tt) => { Option<$crate::operands::operand!(@type $inner, $held)> };
    (@type LogDecay, [$rows:ident, $values:ident]) => { $crate::LogDecay<$values, $rows> };
    (@type $kind:ident, [$rows:ident $(, $values:ident)?]) => { $rows };

    (@map Values, $name:expr, $held:expr, [$rows:ident, $values:ident]) => {
        $values($crate::operands::Operand::new($name, $crate::operands::Kind::Values), $held)?
    };
    (@map Option $inner:ident, $name:expr, $held:expr, $functions:tt) => {
        match $held {
            Some(held) => Some($crate::operands::operand!(@map $inner, $name, held, $functions)),
            None => None,
        }
    };
    (@map LogDecay, $name:expr, $held:expr, [$rows:ident, $values:ident]) => {{
        let operand = $crate::operands::Operand::new($name, $crate::operands::Kind::Gates);
        match $held {
            $crate::LogDecay::None => $crate::LogDecay::None,
            $crate::LogDecay::Constant(held) => $crate::LogDecay::Constant($values(operand, held)?),
            $crate::LogDecay::Token(held) => $crate::LogDecay::Token($rows(operand, held)?),
        }
    }};
    (@map $kind:ident, $name:expr, $held:expr, [$rows:ident $(, $values:ident)?]) => {
        $rows($crate::operands::Operand::new($name, $crate::operands::Kind::$kind), $held)?
    };

    (@borrow Option, $plain:expr, $inner:expr) => { $inner };
    (@borrow LogDecay, $plain:expr, $inner:expr) => { $inner };
    (@borrow $kind:ident, $plain:expr, $inner:expr) => { $plain };

    (@extent Option $inner:ident, $like:expr, $($size:expr),+) => {
        $like.as_ref().map(|_| $crate::operands::operand!(@extent $inner, $like, $($size),+))
    };
    (@extent LogDecay, $like:expr, $rows:expr, $cols:expr) => {
        $like.as_ref().map(|_| $cols, |_| ($rows, $cols))
    };
    (@extent Values, $like:expr, $len:expr) => { $len };
    (@extent $kind:ident, $like:expr, $rows:expr, $cols:expr) => { ($rows, $cols) };

    (@expect Option $inner:ident, $name:expr, $subject:expr, $expected:expr, $found:expr) => {
        if let Some(found) = &$found {
            found.expect(
                $subject,
                $crate::operands::Operand::new($name, $crate::operands::Kind::$inner),
                $expected,
            )?;
        }
    };
    (@expect LogDecay, $name:expr, $subject:expr, $expected:expr, $found:expr) => {{
        let operand = $crate::operands::Operand::new($name, $crate::operands::Kind::Gates);
        match &$found {
            $crate::LogDecay::None => {}
            $crate::LogDecay::Constant(found) => {
                found.expect($subject, operand, $expected.constant().copied())?;
            }
            $crate::LogDecay::Token(found) => {
                found.expect($subject, operand, $expected.token().copied())?;
            }
        }
    }};
    (@expect $kind:ident, $name:expr, $subject:expr, $expected:expr, $found:expr) => {
        $found.expect(
            $subject,
            $crate::operands::Operand::new($name, $crate::operands::Kind::$kind),
            Some($expected),
        )?
    };
}
pub(crate) use operand;
