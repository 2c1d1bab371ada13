#![allow(missing_docs, unused)]
pub mod recurrence { use crate::Rows; pub const DEFAULT_CHUNK_SIZE: usize = 64;
#[derive(Clone,Copy,Debug,PartialEq,Eq)] pub enum DecayKind { None, PerHead, PerKey, PerHeadToken, PerKeyToken }
#[derive(Clone,Copy,Debug,PartialEq,Eq)] pub enum ReadOut { Inclusive, Bonus }
#[derive(Clone,Copy,Debug)] pub struct Problem { pub batch: usize, pub time: usize, pub heads: usize, pub groups: usize, pub key_dim: usize, pub value_dim: usize, pub decay: DecayKind, pub read_out: ReadOut }
pub enum LogDecay<'a> { None, Constant(&'a [f32]), Token(Rows<'a>) }
pub struct Inputs<'a> { pub query: Rows<'a>, pub key: Rows<'a>, pub value: Rows<'a>, pub log_decay: LogDecay<'a>, pub step_size: Option<Rows<'a>>, pub bonus: Option<&'a [f32]>, pub skip: Option<&'a [f32]>, pub scale: f32 }
type R<T> = Result<T, String>;
pub fn sequential(p:&Problem,i:&Inputs,s:&mut [f32],o:&mut [f32])->R<()> {Ok(())}
pub fn sequential_bounded(p:&Problem,i:&Inputs,b:&[f32],s:&mut [f32],o:&mut [f32])->R<u64> {Ok(0)}
pub fn chunked(p:&Problem,i:&Inputs,c:usize,s:&mut [f32],o:&mut [f32])->R<()> {Ok(())}
pub fn element(p:&Problem,i:&Inputs,c:usize,s:&mut [f32],o:&mut [f32])->R<()> {Ok(())}
}
pub mod linear { use crate::Rows; #[derive(Debug)] pub struct PackedMatrix; impl PackedMatrix { pub fn out_features(&self)->usize{0} pub fn in_features(&self)->usize{0} }
pub fn linear(x:Rows,w:&PackedMatrix,b:Option<&[f32]>,o:&mut [f32])->Result<(),String>{Ok(())} }
pub mod causal_conv1d { use crate::Rows; #[derive(Clone,Copy,Debug,PartialEq,Eq)] pub enum Activation{None,Silu} pub struct Problem {pub batch:usize,pub time:usize,pub channels:usize,pub width:usize,pub activation:Activation}
pub fn causal_conv1d(p:&Problem,x:Rows,w:&[f32],b:Option<&[f32]>,s:&mut [f32],o:&mut [f32])->Result<(),String>{Ok(())} }
pub mod gated_norm { use crate::Rows; #[derive(Clone,Copy,Debug,PartialEq,Eq)] pub enum GateOrder{NormAfterGate,NormBeforeGate} pub struct Problem{pub rows:usize,pub features:usize,pub group_size:usize,pub eps:f32,pub order:GateOrder}
pub fn gated_rms_norm(p:&Problem,x:Rows,z:Option<Rows>,w:Option<&[f32]>,b:Option<&[f32]>,o:&mut [f32])->Result<(),String>{Ok(())}
pub fn add_rms_norm(r:&mut [f32],x:Option<&[f32]>,w:&[f32],e:f32,o:&mut [f32])->Result<(),String>{Ok(())} }
pub mod step_size { use crate::Rows; pub fn step_size(r:Rows,b:&[f32],a:&[f32],l:(f32,f32),s:&mut [f32],d:&mut [f32])->Result<(),String>{Ok(())} }
pub mod cross_entropy { use crate::Rows; pub fn cross_entropy(l:Rows,t:&[u32],o:&mut [f32])->Result<(),String>{Ok(())} }
