//! Structs of operands, and what each of their functions does with a field of each kind.

/// Declares a struct of operands: `<R>` where all have rows, `<V>` where none has, `<R, V>` where some have none.
macro_rules! operands {
    ($problem:ty as $p:ident $(, $n:ident)?; $(#[$about:meta])* $name:ident<R> $($rest:tt)+) => {
        $crate::operands::operands! {
            @each [R] [rows] (R, S, rows, (usize, usize), |shape| $crate::operands::area(shape));
            $problem as $p $(, $n)?; $(#[$about])* $name $($rest)+
        }
    };
    ($problem:ty as $p:ident $(, $n:ident)?; $(#[$about:meta])* $name:ident<V> $($rest:tt)+) => {
        $crate::operands::operands! {
            @each [V] [values] (V, W, values, usize, |len| len);
            $problem as $p $(, $n)?; $(#[$about])* $name $($rest)+
        }
    };
    ($problem:ty as $p:ident $(, $n:ident)?; $(#[$about:meta])* $name:ident<R, V> $($rest:tt)+) => {
        $crate::operands::operands! {
            @each [R, V] [rows, values]
            (R, S, rows, (usize, usize), |shape| $crate::operands::area(shape)),
            (V, W, values, usize, |len| len);
            $problem as $p $(, $n)?; $(#[$about])* $name $($rest)+
        }
    };
    (
        @each $all:tt $functions:tt $(($held:ident, $other:ident, $f:ident, $shape:ty, |$s:ident| $len:expr)),+;
        $problem:ty as $p:ident $(, $n:ident)?;
        $(#[$about:meta])*
        $name:ident { $($(#[$doc:meta])* $field:ident: $kind:ident $(<$inner:ident>)? [$($size:expr),+]),+ $(,)? }
        $(settings<$lt:lifetime> { $($(#[$setting_doc:meta])* $setting:ident: $setting_type:ty,)+ })?
    ) => {
        $(#[$about])*
        ///
        /// `R` holds what has a row per token, `V` what has none.
        pub struct $name<$($lt,)? $($held),+> {
            $($(#[$doc])* pub $field: $crate::operands::operand!(@type $kind $($inner)?, $all),)+
            $($($(#[$setting_doc])* pub $setting: $setting_type,)+)?
        }

        impl<$($lt,)? $($held),+> $name<$($lt,)? $($held),+> {
            /// These operands, each converted by the function for what holds it, which may fail.
            ///
            /// # Errors
            /// The first that a function gives.
            pub fn try_map<$($other,)+ E>(
                self,
                $(mut $f: impl FnMut($crate::operands::Operand, $held) -> Result<$other, E>,)+
            ) -> Result<$name<$($lt,)? $($other),+>, E> {
                Ok($name {
                    $($field: $crate::operands::operand!(
                        @map $kind $($inner)?, stringify!($field), self.$field, $functions
                    ),)+
                    $($($setting: self.$setting,)+)?
                })
            }

            /// These operands, each converted by the function for what holds it.
            pub fn map<$($other),+>(
                self,
                $(mut $f: impl FnMut($crate::operands::Operand, $held) -> $other,)+
            ) -> $name<$($lt,)? $($other),+> {
                match self.try_map($(|name, held| Ok::<_, std::convert::Infallible>($f(name, held))),+) {
                    Ok(operands) => operands,
                    Err(never) => match never {},
                }
            }

            /// These operands, borrowed.
            pub fn as_ref(&self) -> $name<$($lt,)? $(&$held),+> {
                $name {
                    $($field: $crate::operands::operand!(@borrow $kind, (&self.$field), self.$field.as_ref()),)+
                    $($($setting: self.$setting,)+)?
                }
            }

            /// These operands, borrowed to be changed.
            pub fn as_mut(&mut self) -> $name<$($lt,)? $(&mut $held),+> {
                $name {
                    $($field: $crate::operands::operand!(@borrow $kind, (&mut self.$field), self.$field.as_mut()),)+
                    $($($setting: self.$setting,)+)?
                }
            }

            /// The shapes that a problem asks for of operands like these: of those that are given.
            #[allow(
                dead_code,
                unused_variables,
                reason = "a shape may not depend on the problem, and those of gradients come from those of inputs"
            )]
            pub(crate) fn extents(&self, $p: &$problem $(, $n: usize)?) -> $name<$($lt,)? $($shape),+> {
                $name {
                    $($field: $crate::operands::operand!(@extent $kind $($inner)?, self.$field, $($size),+),)+
                    $($($setting: self.$setting,)+)?
                }
            }

            /// Compares the operands with the shapes that a problem asks for; what is left out fits.
            pub(crate) fn expect<T, E>(
                &self,
                subject: &$crate::operands::Subject<T>,
                extents: &$name<$($lt,)? $($shape),+>,
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
        impl<$($lt)?> $name<$($lt,)? $($shape),+> {
            /// Zeros of these shapes.
            pub(crate) fn zeros<T: Clone + Default>(self) -> $name<$($lt,)? $($crate::operands::each!($held => Vec<T>)),+> {
                self.map($(|_, $s| vec![T::default(); $len]),+)
            }

            /// Buffers of these shapes on a device, not filled.
            #[cfg(feature = "cube")]
            pub(crate) fn empty(
                self,
                client: &$crate::cube::Client,
                types: $crate::operands::ElementTypes,
            ) -> Result<
                $name<$($lt,)? $($crate::operands::each!($held => $crate::cube::DeviceBuffer)),+>,
                $crate::cube::Error,
            > {
                self.try_map($(|operand, $s| $crate::cube::DeviceBuffer::empty(client, $len, types.of(operand))),+)
            }
        }

        impl<$($lt,)? T> $name<$($lt,)? $($crate::operands::each!($held => Vec<T>)),+> {
            /// All of them, to be written.
            pub fn as_written(&mut self) -> $name<$($lt,)? $($crate::operands::each!($held => &mut [T])),+> {
                self.as_mut().map($(|_, $f| $f.as_mut_slice()),+)
            }
        }

        impl<$($lt,)? $($held: Clone),+> Clone for $name<$($lt,)? $($held),+> {
            fn clone(&self) -> Self {
                $name { $($field: self.$field.clone(),)+ $($($setting: self.$setting,)+)? }
            }
        }

        impl<$($lt,)? $($held: Copy),+> Copy for $name<$($lt,)? $($held),+> {}

        impl<$($lt,)? $($held: std::fmt::Debug),+> std::fmt::Debug for $name<$($lt,)? $($held),+> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name))
                    $(.field(stringify!($field), &self.$field))+
                    $($(.field(stringify!($setting), &self.$setting))+)?
                    .finish()
            }
        }

        impl<$($lt,)? $($held: PartialEq),+> PartialEq for $name<$($lt,)? $($held),+> {
            fn eq(&self, other: &Self) -> bool {
                true $(&& self.$field == other.$field)+ $($(&& self.$setting == other.$setting)+)?
            }
        }

        $crate::operands::list! {
            [$($lt)?] $name<$($held),+> { $($field: $kind $(<$inner>)?,)+ }
        }
    };
}
pub(crate) use operands;

/// The type `$held`, whatever `$any` is: repeats one type for each of a list of others.
macro_rules! each {
    ($any:ident => $held:ty) => {
        $held
    };
}
pub(crate) use each;

/// Operands as a list; settings are no part of one, and what has some is no list.
macro_rules! list {
    ([$lt:lifetime] $($rest:tt)+) => {};
    ([] $name:ident<$($held:ident),+> { $($field:ident: $kind:ident $(<$inner:ident>)?,)+ }) => {
        #[allow(clippy::vec_init_then_push, reason = "a log decay pushes twice")]
        impl<T> $crate::operands::Named<T> for $name<$($crate::operands::each!($held => T)),+> {
            fn names() -> Vec<&'static str> {
                let mut names = Vec::new();
                $($crate::operands::operand!(@names $kind $($inner)?, names, stringify!($field));)+
                names
            }

            fn from_list(list: $crate::operands::List<T>) -> Option<Self> {
                let mut list = list.into_iter();
                let mut next = || list.next().flatten();
                Some(Self { $($field: $crate::operands::operand!(@next $kind $($inner)?, next),)+ })
            }

            fn into_list(self) -> $crate::operands::List<T> {
                let mut list = Vec::new();
                $($crate::operands::operand!(@list $kind, list, self.$field);)+
                list
            }
        }

        impl $crate::operands::Declared for $name<$($crate::operands::each!($held => ())),+> {
            type As<T> = $name<$($crate::operands::each!($held => T)),+>;
        }
    };
}
pub(crate) use list;

/// What a kind of operand is in each of the functions of a struct of operands.
macro_rules! operand {
    (@type Values, [$rows:ident, $values:ident]) => { $values };
    (@type Values, [$values:ident]) => { $values };
    (@type Option $inner:ident, $held:tt) => { Option<$crate::operands::operand!(@type $inner, $held)> };
    (@type Choice $inner:ident, [$rows:ident $(, $values:ident)?]) => { $inner<$rows> };
    (@type LogDecay, [$rows:ident, $values:ident]) => { $crate::LogDecay<$values, $rows> };
    (@type $kind:ident, [$rows:ident $(, $values:ident)?]) => { $rows };

    (@map Values, $name:expr, $held:expr, [$rows:ident, $values:ident]) => {
        $crate::operands::operand!(@map Values, $name, $held, [$values])
    };
    (@map Values, $name:expr, $held:expr, [$values:ident]) => {
        $values($crate::operands::Operand::new($name, $crate::operands::Kind::Values), $held)?
    };
    (@map Option $inner:ident, $name:expr, $held:expr, $functions:tt) => {
        match $held {
            Some(held) => Some($crate::operands::operand!(@map $inner, $name, held, $functions)),
            None => None,
        }
    };
    (@map Choice $inner:ident, $name:expr, $held:expr, [$rows:ident $(, $values:ident)?]) => {
        $held.try_map(&mut $rows)?
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
    (@borrow Choice, $plain:expr, $inner:expr) => { $inner };
    (@borrow LogDecay, $plain:expr, $inner:expr) => { $inner };
    (@borrow $kind:ident, $plain:expr, $inner:expr) => { $plain };

    (@extent Option $inner:ident, $like:expr, $($size:expr),+) => {
        $like.as_ref().map(|_| $crate::operands::operand!(@extent $inner, $like, $($size),+))
    };
    (@extent Choice $inner:ident, $like:expr, $($size:expr),+) => { $like.extents($($size),+) };
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
    (@expect Choice $inner:ident, $name:expr, $subject:expr, $expected:expr, $found:expr) => {
        $found.expect($subject, &$expected)?
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

    // A log decay has two places in a list: where it is constant, and where there is one per token.
    (@names LogDecay, $names:expr, $name:expr) => { $names.extend([$name, $name]) };
    (@names Choice $inner:ident, $names:expr, $name:expr) => { $names.extend($inner::<()>::NAMES) };
    (@names $kind:ident $($inner:ident)?, $names:expr, $name:expr) => { $names.push($name) };

    (@list Choice, $list:expr, $held:expr) => { $list.extend($held.into_places()) };
    (@list LogDecay, $list:expr, $held:expr) => {
        $list.extend(match $held {
            $crate::LogDecay::None => [None, None],
            $crate::LogDecay::Constant(held) => [Some(held), None],
            $crate::LogDecay::Token(held) => [None, Some(held)],
        })
    };
    (@list Option, $list:expr, $held:expr) => { $list.push($held) };
    (@list $kind:ident, $list:expr, $held:expr) => { $list.push(Some($held)) };

    (@next LogDecay, $next:expr) => {
        match ($next(), $next()) {
            (Some(held), _) => $crate::LogDecay::Constant(held),
            (None, Some(held)) => $crate::LogDecay::Token(held),
            (None, None) => $crate::LogDecay::None,
        }
    };
    (@next Choice $inner:ident, $next:expr) => { $inner::from_places(&mut $next)? };
    (@next Option $inner:ident, $next:expr) => { $next() };
    (@next $kind:ident, $next:expr) => { $next()? };
}
pub(crate) use operand;
