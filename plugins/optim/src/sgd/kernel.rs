//! The loops over elements, one for each form of the rule: plain Rust, which the compiler vectorises.
//!
//! There is one version for all processors, unlike AdamW's: an element takes a few products, no root and no division,
//! and a wider version was not tried.

/// The coefficients that all elements of one update share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coefficients {
    /// `λ`, the part of a parameter that is added to its gradient.
    pub decay: f32,
    /// The factor of the old momentum: `μ`, and 0 at the first update.
    pub keep: f32,
    /// The factor of the new gradient in the momentum: `1 − τ`, and 1 at the first update.
    pub gradient_weight: f32,
    /// `μ`, for Nesterov momentum.
    pub look_ahead: f32,
    /// `η`.
    pub rate: f32,
}

/// Updates parameters by their gradients alone.
pub(super) fn plain(c: &Coefficients, parameter: &mut [f32], gradient: &[f32]) {
    for (p, &g) in parameter.iter_mut().zip(gradient) {
        *p -= c.rate * c.decayed(g, *p);
    }
}

/// Updates the momentum, and parameters by it.
pub(super) fn with_momentum(c: &Coefficients, parameter: &mut [f32], gradient: &[f32], momentum: &mut [f32]) {
    for ((p, &g), b) in parameter.iter_mut().zip(gradient).zip(momentum) {
        *b = c.gathered(*b, c.decayed(g, *p));
        *p -= c.rate * *b;
    }
}

/// Updates the momentum, and parameters by it and the gradient.
pub(super) fn with_nesterov(c: &Coefficients, parameter: &mut [f32], gradient: &[f32], momentum: &mut [f32]) {
    for ((p, &g), b) in parameter.iter_mut().zip(gradient).zip(momentum) {
        let decayed = c.decayed(g, *p);
        *b = c.gathered(*b, decayed);
        *p -= c.rate * (decayed + c.look_ahead * *b);
    }
}

impl Coefficients {
    /// The gradient with the coupled weight decay.
    #[inline(always)]
    fn decayed(&self, gradient: f32, parameter: f32) -> f32 {
        gradient + self.decay * parameter
    }

    /// The momentum with the gradient in it.
    #[inline(always)]
    fn gathered(&self, momentum: f32, gradient: f32) -> f32 {
        self.keep * momentum + self.gradient_weight * gradient
    }
}
