import { describe, expect, it } from "vitest"
import { fitProbe, predict, probeLogits, probeLoss } from "../../src/measures/Probe.ts"
import { finiteDifference, makeRandom } from "../reference/random.ts"

describe("a linear probe", () => {
  const draw = makeRandom(7)

  it("has the gradient that finite differences have", () => {
    const [n, width, classes] = [6, 4, 3]
    const rows = draw.normals(n * width, 1)
    const labels = draw.ints(n, classes)
    const weights = draw.normals(width * classes, 0.5)
    const { gradient } = probeLoss(rows, labels, weights, classes, 0.3)
    const at = [...weights.keys()]
    const want = finiteDifference(() => probeLoss(rows, labels, weights, classes, 0.3).loss, weights, at)
    at.forEach((i) => expect(gradient[i]).toBeCloseTo(want[i]!, 6))
    // uniform at 0: log of the classes
    expect(probeLoss(rows, labels, new Float64Array(width * classes), classes, 1).loss).toBeCloseTo(Math.log(3), 12)
  })

  it("reads what is linearly there, on data it was not fitted on, and nothing of shuffled labels", () => {
    const [n, d, classes] = [240, 6, 4]
    const directions = draw.normals(classes * d, 1)
    const make = (shuffled: boolean) => {
      const labels = draw.ints(n, classes)
      const features = Float32Array.from({ length: n * d },
        (_, i) => 7 + directions[labels[Math.floor(i / d)]! * d + i % d]! + 0.3 * draw.normal())
      return { features, labels: shuffled ? draw.ints(n, classes) : labels }
    }
    const accuracy = (shuffled: boolean) => {
      const [train, test] = [make(shuffled), make(shuffled)]
      const found = predict(fitProbe(train.features, train.labels, classes), test.features)
      return found.filter((label, i) => label === test.labels[i]).length / n
    }
    expect(accuracy(false)).toBeGreaterThan(0.9)
    expect(accuracy(true)).toBeLessThan(0.4)
  })

  it("finds the optimum: a closed form of two classes of one point each, and no feature that never varies", () => {
    // logits +-w of points +-1: loss log(1 + e^(-2w)) + l2 w^2, whose derivative is 0 there
    const probe = fitProbe([-1, 5, 1, 5], [0, 1], 2, { l2: 0.1, steps: 2000 })
    const w = probe.weights[1]!
    expect(probe.weights[0]).toBeCloseTo(-w, 6)
    expect(-2 / (1 + Math.exp(2 * w)) + 0.1 * 2 * w).toBeCloseTo(0, 5)
    expect(probeLogits(probe, [1, 9])[1]).toBeCloseTo(w, 5)
  })
})
