// The bookkeeping of a training step: counters, learning rate and loss sum stay on the device, so that a captured step
// needs nothing from the host.
// compile: REAL=float | REAL=double
//
// Thread mapping: one thread. About 100 bytes and 10 operations: the launch is all its cost. It could be part of the
// last kernel before it (the loss) or after it (the optimiser), at the price of mixing bookkeeping into their code.
// On an H200 it takes 1.4 to 2.2 us.

// counters: step, position, start, correct, failed; numbers: lr, loss_sum (see gpunet/ops/step_state).
extern "C" __global__ void advance_step(
    long long* counters, double* numbers, const double* rates, int steps, const real* loss, const long long* correct,
    real* scale, int batch_size) {
    const double value = *loss, factor = *scale;
    const double nan_or_0 = (value - value) + (factor - factor);  // 0 if both are finite
    if (counters[4] < 0 && nan_or_0 != 0) counters[4] = counters[0];
    numbers[0] = rates[counters[1] < steps ? counters[1] : steps - 1];
    numbers[1] += value + nan_or_0;
    if (isnan(numbers[1])) *scale = real(numbers[1]);  // to the end of the epoch: nothing is updated any more
    counters[0] += 1;
    counters[1] += 1;
    counters[2] += batch_size;
    counters[3] += *correct;
}
